"""RL2: a recurrent policy that learns to learn, trained by PPO on whole trials.

Duan et al. 2016 (arXiv:1611.02779). A trial is several episodes of one task; the cell's state goes on
from one to the next and is zero at the start of a trial, so what the network does with its memory is
the adaptation, and no gradient step is taken at test time. At every step the cell sees the observation,
the previous action as the environment was given it, the previous reward, and a flag, which says that an
episode has just ended. At the first step of a later episode the flag is therefore 1, and action and
reward are those of the last step of the episode before, so that a reward at its end is seen
(section 2.2); at the start of a trial all three are 0.

The objective is the return of the whole trial (section 2.2), so by default returns run on across the
borders of episodes, and an exploring first episode is paid for by the later ones. The code that the
PEARL paper compares with (ProMP's) computes advantages within each episode, as with
`per_episode_advantages`, and puts previous action, reward and flag to 0 at the start of every episode,
which hides what an episode's last step earned; that is not taken over. As there, the baseline is linear
in all that the cell sees, and weights start as TensorFlow's.

The update is PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347) on all trials. Gradients
go back through `bptt_length` steps; the state is carried on between such chunks. The gradients of all
chunks and tasks add up to one Adam step per epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.config import ConfigError, OnPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.optimisers import adam
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm
from metarl_agents.trials.episodes import Episodes, executed
from metarl_agents.trials.policy import TrialPolicy
from metarl_agents.trials.recurrent import CELLS, RecurrentGaussian, TrialSequences, trial_sequences


@dataclass(frozen=True)
class RL2Config(OnPolicyConfig):
    """Configuration of RL2.

    Attributes:
        hidden: widths of tanh layers before the recurrent cell; none by default, as in ProMP's RL2.
        episodes_per_task: trials of each task that run together.
        episodes_per_trial: consecutive episodes of a trial in training; evaluation may use more.
        cell: type of the recurrent cell, "gru" or "lstm".
        recurrent_size: width of the cell.
        per_episode_advantages: whether returns end at the end of each episode instead of the trial.
        bptt_length: number of steps of backpropagation through time.
        outer_steps: epochs, each one Adam step on all trials of the iteration.
        clip: epsilon, clipping range of the probability ratios.
        entropy_weight: weight of the policy's entropy.
    """

    hidden: tuple[int, ...] = ()
    evaluation_protocols: tuple[str, ...] = ("rl2",)
    episodes_per_trial: int = 2
    cell: str = "gru"
    recurrent_size: int = 64
    per_episode_advantages: bool = False
    bptt_length: int = 32
    outer_steps: int = 5
    clip: float = 0.2
    entropy_weight: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *OnPolicyConfig.may_be_zero,
        "per_episode_advantages",
        "entropy_weight",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell not in CELLS:
            raise ConfigError(f"cell must be one of {', '.join(CELLS)}, not {self.cell!r}")


class RL2Policy(TrialPolicy):
    """A recurrent policy whose memory lasts for a trial.

    Args:
        model: the network.
        episodes_per_trial: episodes kept for training.
        action_space: box of actions.
        observation_space: box of observations.
        generator: source of action noise.
        action_scale: see `TrialPolicy`.
    """

    def __init__(
        self,
        *,
        model: RecurrentGaussian,
        episodes_per_trial: int,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
        action_scale: float = 1.0,
    ) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            generator=generator,
            action_scale=action_scale,
        )
        self.model = model
        # Trials of an evaluation may be longer, and nothing is learned from them.
        self.batches: deque[Episodes] = deque(maxlen=episodes_per_trial)

    def begin_trials(self, tasks: int, rollouts: int) -> None:
        """Empties the memory."""
        self.batches.clear()
        self.tasks = tasks
        self.state_RK = self.next_state_RK = self.model.start(tasks * rollouts)
        # Previous action, reward and flag: the part of the next input that is not the observation.
        self.previous_RI = self.state_RK.new_zeros(len(self.state_RK), self.action_space.shape[0] + 2)

    def end_episode(self) -> None:
        """The memory stays; the next inputs say that an episode has ended, and how."""
        self.previous_RI[:, -1] = 1.0

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (T E, A), not bounded. The memory moves when the step is observed."""
        inputs_RI = torch.cat((observations_RO, self.previous_RI), -1)
        chosen, self.next_state_RK = self.model.step(inputs_RI, self.state_RK, self.tasks)
        return chosen.mean if deterministic else chosen.with_noise(self.noise(chosen.mean))

    def observe_arrays(
        self,
        obs_NO: NDArray[Any],
        act_NA: NDArray[Any],
        reward_N: NDArray[Any],
        active_N: NDArray[np.bool_],
    ) -> None:
        """Moves the memory of rollouts that took the step; see `TrialPolicy.observe_arrays`."""
        flag_N = np.zeros(len(act_NA))
        given_NA = executed(act_NA, self.action_scale)
        previous_RI = self.tensor(np.column_stack((given_NA, reward_N, flag_N)))
        # Training knows only steps that happened: what came after an early end must leave no trace.
        active_R1 = torch.as_tensor(active_N[:, None], device=previous_RI.device)
        self.previous_RI = torch.where(active_R1, previous_RI, self.previous_RI)
        self.state_RK = torch.where(active_R1, self.next_state_RK, self.state_RK)

    def take(self, episodes: Episodes) -> None:
        """Keeps the trial's episodes."""
        self.batches.append(episodes)

    @property
    def taken(self) -> tuple[int, int]:
        """See `TrialPolicy.taken`; a trial is learned from as a whole."""
        tasks, rollouts, steps = self.batches[0].valid.shape
        return tasks, len(self.batches) * rollouts * steps


class RL2(MetaOnPolicyAlgorithm[RL2Policy]):
    """Recurrent meta-reinforcement learning; see the module for the source."""

    config_class: ClassVar[type[RL2Config]] = RL2Config
    loss_names = ("surrogate", "policy_kl", "action_std")

    def __init__(self, *, policy: RL2Policy, config: RL2Config, generator: torch.Generator) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.updates_per_iteration(config), generator)
        self.config = config
        self.optim = self._create_optimizer(policy.model, adam(config.learning_rate))
        #: Trials of a piece of tasks, with the policy that acted in them and its log-densities (S, R).
        self.prepared: dict[int, tuple[TrialSequences, Gaussian, Tensor]] = {}

    @classmethod
    def from_config(
        cls,
        config: RL2Config,
        context: Context,
    ) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        actions = context.actions
        model = RecurrentGaussian(
            context.observations + actions + 2,
            config.hidden,
            actions,
            cell=config.cell,
            width=config.recurrent_size,
            generator=context.weights(),
        ).to(context.device)
        policy = RL2Policy(
            model=model,
            episodes_per_trial=config.episodes_per_trial,
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
            action_scale=config.action_scale,
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: RL2Config) -> Sequence[str]:
        """One batch per episode of the trial."""
        if config.episodes_per_trial == 1:
            return ("last",)
        return ("first", *("between",) * (config.episodes_per_trial - 2), "last")

    @staticmethod
    def updates_per_iteration(config: RL2Config) -> int:
        """The epochs."""
        return config.outer_steps

    @classmethod
    def episodes_per_visit(cls, config: RL2Config) -> int:
        """All episodes of the trials of a task."""
        return config.episodes_per_task * config.episodes_per_trial

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Adam steps on the clipped surrogate of all trials."""
        self.on_pieces("prepare", keep=True)
        for _ in range(self.config.outer_steps):
            surrogate, policy_kl = self.step_on_pieces()
            action_std = self.policy.model.log_std.detach().exp().mean()
            yield {"surrogate": surrogate, "policy_kl": policy_kl, "action_std": action_std}
        self.prepared.clear()

    def prepare(self, rows: slice) -> None:
        """Makes sequences of the trials of some tasks, and keeps them with the policy that acted in them."""
        policy, config = self.policy, self.config
        trials = trial_sequences(
            [batch.rows(rows) for batch in policy.batches],
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            per_episode=config.per_episode_advantages,
            standardise=config.standardise_advantages,
            action_scale=policy.action_scale,
            tasks=self.num_tasks,
            device=self.device,
        )
        with torch.no_grad():
            old: Gaussian
            old, _ = policy.model(trials.inputs, policy.model.start(trials.inputs.shape[1]))
            self.prepared[rows.start] = (trials, old.detach(), old.log_prob(trials.act))

    def loss_gradient(self, rows: slice) -> tuple[list[Tensor], Tensor]:
        """The gradient of the loss of some tasks' trials, added up over chunks of steps."""
        parameters = self.trained_parameters()
        total = [torch.zeros_like(parameter) for parameter in parameters]
        reported = {name: torch.zeros((), device=self.device) for name in self.loss_names[:2]}
        for loss in self._losses(*self.prepared[rows.start], reported):
            for place, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                place += gradient
        return total, torch.stack(list(reported.values()))

    def _losses(
        self, trials: TrialSequences, old: Gaussian, old_log_prob_SR: Tensor, sums: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """The loss of every chunk of steps; adds what is reported to `sums`."""
        model, config = self.policy.model, self.config
        state_RK = model.start(trials.inputs.shape[1])
        for first in range(0, len(trials.inputs), config.bptt_length):
            chunk = slice(first, first + config.bptt_length)
            inputs_SRI, act_SRA, advantage_SR, weight_SR = (column[chunk] for column in trials)
            new: Gaussian
            new, state_RK = model(inputs_SRI, state_RK.detach())
            ratio_SR = (new.log_prob(act_SRA) - old_log_prob_SR[chunk]).exp()
            clipped_SR = ratio_SR.clamp(1 - config.clip, 1 + config.clip)
            gain_SR = torch.minimum(ratio_SR * advantage_SR, clipped_SR * advantage_SR)
            surrogate = -(gain_SR * weight_SR).sum()
            with torch.no_grad():
                kl_SR = new.kl_from(Gaussian(old.mean[chunk], old.log_std))
                sums["surrogate"] += surrogate
                sums["policy_kl"] += (kl_SR * weight_SR).sum()
            yield surrogate - config.entropy_weight * (new.entropy() * weight_SR).sum()
