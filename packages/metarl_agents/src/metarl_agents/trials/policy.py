"""Policies that live through trials: batches of episodes of each task, learning in between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.config import OnPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.common.policy import BatchPolicy
from metarl_agents.common.seeding import torch_stream
from metarl_agents.networks.functional import Gaussian, GaussianMLP, TaskModel
from metarl_agents.trials.adaptation import (
    Loss,
    StepSizes,
    chunks,
    distribution,
    moved,
    task_gradients,
)
from metarl_agents.trials.episodes import Episodes, Sample, Steps, executed, task_steps

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


class TrialPolicy(BatchPolicy):
    """A policy that acts on T tasks with E rollouts of each side by side, and learns between batches.

    Rows are tasks times rollouts; those of one task lie side by side. Training and evaluation drive
    the same calls: `begin_trials`, then for each batch of episodes `act` and `observe` in every step,
    `end_episode`, `take`, and before a further batch `adapt`.

    Args:
        action_space: box of actions.
        observation_space: box of observations.
        generator: source of action noise in evaluation.
        action_scale: what the environment is given of an action, see `episodes.executed`.

    Attributes:
        planned_noise: standard normal noise (H, T E, A) of the steps of a batch; None: it is drawn from the
            generator.
        piece_tasks: number of tasks that are learned from together, see `pieces`; None: it depends on the
            data.
    """

    #: Number of steps, in whole tasks, that are learned from together.
    piece_steps: int = 50_000
    piece_tasks: int | None = None
    planned_noise: Iterator[Tensor] | None = None

    def __init__(
        self,
        *,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
        action_scale: float = 1.0,
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.action_scale = action_scale

    def pieces(self, tasks: int, steps: int) -> list[slice]:
        """The tasks in pieces, each of which is learned from in one batch of products.

        In training, `piece_tasks` decides. Pieces then depend neither on the data nor on where they are
        worked on, so neither does the result, bit for bit. Otherwise there are as many tasks in a piece as
        make `piece_steps` steps, or one.

        Perceptrons of width 64, second-order, on CPU: with 4,000 steps a task the loop over single tasks
        is 2.2 times as fast as one batch of 40 tasks, because it stays within the cache; with 200 steps
        eight tasks together are 1.6 times as fast as single ones, which pay for many small calls.

        Args:
            tasks: number of tasks T.
            steps: steps of each.
        """
        return chunks(tasks, self.piece_tasks or max(1, self.piece_steps // steps))

    def noise(self, actions: Tensor) -> Tensor:
        """Standard normal noise for a step, with the shape of the actions."""
        if self.planned_noise is not None:
            return next(self.planned_noise).view(actions.shape)
        return torch.randn(actions.shape, generator=self.generator, device=actions.device)

    @abstractmethod
    def begin_trials(self, tasks: int, rollouts: int) -> None:
        """Forgets everything learned of tasks; new ones begin."""

    def end_episode(self) -> None:
        """All running episodes are over; recurrent policies see the next one begin."""

    @abstractmethod
    def take(self, episodes: Episodes) -> None:
        """Takes in a batch of episodes that this policy has acted in."""

    @property
    @abstractmethod
    def taken(self) -> tuple[int, int]:
        """Number of tasks T of what was taken in, and of steps of each that are learned from together."""

    def adapt(self, scale: float = 1.0) -> None:
        """Learns from the batch taken in last, by a step `scale` times as long as in training."""

    def observe_arrays(
        self,
        obs_NO: NDArray[Any],
        act_NA: NDArray[Any],
        reward_N: NDArray[Any],
        active_N: NDArray[np.bool_],
    ) -> None:
        """Takes in a step of all rollouts; recurrent policies remember it.

        Args:
            obs_NO: what the actions were chosen from.
            act_NA: the actions, as they were drawn.
            reward_N: the environment's rewards.
            active_N: rollouts that took the step; the episodes of the others are over.
        """


class AdaptivePolicy(TrialPolicy):
    """A policy whose tasks' own parameters take gradient steps.

    Args:
        model: the networks.
        step_sizes: alpha.
        inner_loss: loss of the gradient steps.
        max_norm: bound on a task's gradient; None for none.
        gamma: discount of advantages.
        gae_lambda: lambda of advantages.
        standardise_advantages: whether they are standardised over each task's steps.
        action_space: box of actions.
        observation_space: box of observations.
        generator: source of action noise.
        action_scale: see `TrialPolicy`.
    """

    def __init__(
        self,
        *,
        model: TaskModel,
        step_sizes: StepSizes,
        inner_loss: Loss,
        max_norm: float | None = None,
        gamma: float,
        gae_lambda: float,
        standardise_advantages: bool = True,
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
        self.step_sizes = step_sizes
        self.inner_loss = inner_loss
        self.max_norm = max_norm
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.standardise_advantages = standardise_advantages
        self.piece_steps = model.piece_steps
        self.samples: list[Sample] = []
        self.gradients: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin_trials(self, tasks: int, rollouts: int) -> None:
        """Every task starts from the meta-learned parameters."""
        self.tasks = tasks
        self.memory: Any = None
        self.samples = []
        self.own = self.model.start(tasks)
        # The sum of the gradients stepped along, per task; steps start from the same parameters.
        self.gradients = {name: torch.zeros_like(value) for name, value in self.own.items()}
        self.context = self.model.context(self.own, None)

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (T E, A), not bounded."""
        obs_TEO = observations_RO.view(self.tasks, -1, observations_RO.shape[-1])
        chosen: Gaussian = self.model.distribution(obs_TEO, self.own, self.context)
        actions_TEA = chosen.mean if deterministic else chosen.with_noise(self.noise(chosen.mean))
        return actions_TEA.reshape(len(observations_RO), -1)

    def take(self, episodes: Episodes) -> None:
        """Keeps the batch with its advantages, and remembers of it what the model does."""
        steps = task_steps(
            episodes,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            standardise=self.standardise_advantages,
            device=self.generator.device,
        )
        self.samples.append(self._sample(steps))
        self.memory = self.model.remember(self.memory, episodes, self.generator.device)

    @property
    def taken(self) -> tuple[int, int]:
        """See `TrialPolicy.taken`; a gradient step is taken on one batch."""
        tasks, steps = self.samples[-1].advantage.shape
        return tasks, steps

    @torch.no_grad()
    def _sample(self, steps: Steps) -> Sample:
        # Only to be cut into pieces; old policies are what is computed here.
        bare = Sample(*steps, Gaussian(steps.act, steps.act), steps.advantage, self.memory)
        olds: list[tuple[slice, Gaussian]] = []
        log_prob = torch.zeros_like(steps.advantage)
        for rows in self.pieces(*steps.advantage.shape):
            part = bare.rows(rows)
            own = {name: value[rows] for name, value in self.own.items()}
            old: Gaussian = distribution(self.model, own, part)
            log_prob[rows, : part.obs.shape[1]] = old.log_prob(part.act)
            olds.append((rows, old))
        # Log sigma is one vector per task, or one per step.
        per_step = any(old.log_std.shape[1] > 1 for _, old in olds)
        mean = torch.zeros_like(steps.act)
        log_std = mean.new_zeros(mean.shape if per_step else (len(mean), 1, mean.shape[2]))
        for rows, old in olds:
            mean[rows, : old.mean.shape[1]] = old.mean
            log_std[rows, : old.log_std.shape[1]] = old.log_std
        return bare._replace(old=Gaussian(mean, log_std), old_log_prob=log_prob)

    def adapt(self, scale: float = 1.0) -> None:
        """One gradient step of every task on the batch taken in last, with `scale` times alpha.

        A model that needs memory had none in its first batch, which is there to fill it: no step.
        """
        sample = self.samples[-1]
        if not self.model.needs_memory or sample.memory is not None:
            self._accumulate(sample, scale)
            with torch.no_grad():
                start = self.model.start(self.tasks)
                self.own = moved(start, self.gradients, self.step_sizes.by_name())
        with torch.no_grad():
            self.context = self.model.context(self.own, self.memory)

    def _accumulate(self, sample: Sample, scale: float) -> None:
        for rows in self.pieces(*sample.advantage.shape):
            own = {name: value[rows].detach().requires_grad_() for name, value in self.own.items()}
            part = sample.rows(rows)
            losses_T = self.inner_loss(distribution(self.model, own, part), part)
            found = task_gradients(own, losses_T, create_graph=False, max_norm=self.max_norm)
            for name, gradient in found.items():
                self.gradients[name][rows] += scale * gradient


def adaptive_policy(
    model: TaskModel,
    step_sizes: StepSizes,
    config: OnPolicyConfig,
    context: Context,
    *,
    inner_loss: Loss,
    max_norm: float | None = None,
) -> AdaptivePolicy:
    """The policy of a model and its step sizes, with what the configuration says of all of them."""
    return AdaptivePolicy(
        model=model,
        step_sizes=step_sizes,
        inner_loss=inner_loss,
        max_norm=max_norm,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        standardise_advantages=config.standardise_advantages,
        action_space=context.action_space,
        observation_space=context.observation_space,
        generator=context.stream("acting"),
        action_scale=config.action_scale,
    )


def perceptron_policy(
    config: OnPolicyConfig, context: Context, *, inner_step_size: float, inner_loss: Loss
) -> AdaptivePolicy:
    """A perceptron with a free log sigma, all of which adapts with one step size (MAML, ProMP)."""
    model = GaussianMLP(
        context.observations,
        config.hidden,
        context.actions,
        generator=context.weights(),
    ).to(context.device)
    step_sizes = StepSizes(model.start(1), inner_step_size, learned=False)
    return adaptive_policy(model, step_sizes, config, context, inner_loss=inner_loss)


class TrialAgent:
    """A `TrialPolicy` as evaluation drives it: it adapts after every `episodes_per_update` episodes.

    Episodes of adaptation are acted with the policy's noise, which gradients need; scored ones as the
    protocol says. Nothing is learned from them.

    Args:
        policy: the policy.
        observe_task: whether its observations contain the task.
        adapts: whether it learns in a trial at all.
        later_step_scale: length of all steps of a trial but the first, relative to training.
    """

    scores_between = True

    def __init__(
        self,
        policy: TrialPolicy,
        *,
        observe_task: bool = False,
        adapts: bool = True,
        later_step_scale: float = 1.0,
    ) -> None:
        self.policy = policy
        self.observe_task = observe_task
        self.adapts = adapts
        self.later_step_scale = later_step_scale

    def begin_trial(self, trial: Trial) -> None:
        """Forgets every earlier trial."""
        self.trial = trial
        self.policy.generator = torch_stream(trial.seed, "trial", self.policy.generator.device)
        self.policy.begin_trials(trial.num_tasks, 1)
        self.batch: list[list[tuple[NDArray[Any], ...]]] = [[]]
        self.episode = 0
        self.scale = 1.0

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O), as the environment is to be given them."""
        adapting = self.trial.adapting(self.episode)
        self.actions = self.policy.act_on_arrays(
            observations, deterministic=self.trial.deterministic and not adapting
        )
        return executed(self.actions, self.policy.action_scale)

    def observe(self, transition: Transition) -> None:
        """Keeps the step, with the action as it was drawn."""
        step = (transition.observation, self.actions, transition.reward, transition.active)
        self.policy.observe_arrays(*step)
        if self.adapts and self.trial.adapting(self.episode):
            self.batch[-1].append(step)

    def end_episode(self) -> None:
        """Adapts where a batch is complete."""
        self.policy.end_episode()
        adapting = self.trial.adapting(self.episode)
        self.episode += 1
        if not self.adapts or not adapting:
            return
        if len(self.batch) < self.trial.episodes_per_update:
            self.batch.append([])
            return
        self.policy.take(self._episodes())
        self.policy.adapt(self.scale)
        self.scale = self.later_step_scale
        self.batch = [[]]

    def _episodes(self) -> Episodes:
        longest = max(len(episode) for episode in self.batch)

        def column(place: int) -> NDArray[Any]:
            episodes = []
            for episode in self.batch:
                steps = [step[place] for step in episode]
                # Padding is zeros, which are not valid.
                missing = longest - len(steps)
                episodes.append(np.stack(steps + [np.zeros_like(steps[-1])] * missing))
            return np.ascontiguousarray(np.stack(episodes).swapaxes(1, 2).swapaxes(0, 1))

        return Episodes(column(0), column(1), column(2), column(3))
