"""The agent that adapts a pre-trained multi-task agent to the tasks of a trial.

Galashov et al. 2020 (arXiv:2009.04875), sections 4 and 5. All tasks adapt side by side; each has its own
parameters, data and random numbers. Decisions where the paper is silent: a new policy is not a copy of the
prior; "q_only" learns a new prior by eq. 11; scored episodes sample actions; weights of shared features
begin at zero by default (the paper draws them, which `initial_weights` selects).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.common.seeding import numpy_state, part_seed, restore_numpy_state
from metarl_agents.iwpa.config import AdaptationConfig
from metarl_agents.iwpa.critics import CONSTANT, WEIGHTS, TaskCritics
from metarl_agents.iwpa.learners import Learner, Noise, Parts, Std
from metarl_agents.iwpa.policies import PolicyLearner
from metarl_agents.iwpa.stacked import gaussian, stack
from metarl_agents.iwpa.steps import IntArray, TaskSteps
from metarl_agents.iwpa.weighted import FrozenPriorLearner, LearnedPriorLearner
from metarl_agents.networks.functional import Parameters
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Pretrained:
    """What the adaptation takes from a pre-training.

    Attributes:
        prior: the behaviour prior, or None if the variant does not use it.
        features: the critic of shared features, or None.
        hidden: widths of the hidden layers of new policies and priors.
        critic_hidden: the same of new critics; the last one is the number of features.
        std: lowest, initial and highest standard deviation of actions.
        gamma: discount factor.
        device: device of the networks.
    """

    prior: nn.Module | None
    features: nn.Module | None
    hidden: tuple[int, ...]
    critic_hidden: tuple[int, ...]
    std: Std
    gamma: float
    device: torch.device


class AdaptationAgent:
    """Agent for `metarl_envs.evaluation`; see the module.

    Every task makes an update after each `steps_per_update` of its steps and `updates_per_episode` after
    each of its episodes. Chunks come from the steps of the trial.

    Args:
        pretrained: parts of the pre-trained agent.
        config: the settings.
    """

    observe_task = False

    def __init__(self, pretrained: Pretrained, config: AdaptationConfig) -> None:
        self.pretrained, self.config, self.parts = pretrained, config, config.parts
        self.device = pretrained.device
        self.prior = None if pretrained.prior is None else stack([pretrained.prior])

    # -- the four methods of an agent -------------------------------------------------------------

    def begin_trial(self, trial: Trial) -> None:
        """Forgets everything about earlier trials and starts with new parameters."""
        tasks = trial.num_tasks
        assert trial.observation_space.shape
        assert trial.action_space.shape
        self.observations, self.actions = trial.observation_space.shape[0], trial.action_space.shape[0]
        self.scored_from = trial.adaptation_episodes
        self.deterministic = trial.deterministic
        self.episode = 0
        seeds = [part_seed(trial.seed, task) for task in range(tasks)]
        self.generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        self.noise = Noise(self.generators, self.device)
        self.active = np.ones(tasks, bool)
        self.log_mu_T = torch.zeros(tasks, device=self.device)
        #: Per episode, means over its updates of what learners report (T,).
        self.history: list[dict[str, list[float]]] = []
        self._sums: dict[str, Tensor] = {}
        self._updates_T = torch.zeros(tasks, device=self.device)
        self.learner: Learner | None = None
        if self.parts.acts_by != "prior":
            episodes = trial.adaptation_episodes + trial.scored_episodes
            steps = TaskSteps(tasks, episodes * trial.horizon, self.observations, self.actions, self.device)
            weights = [torch.Generator().manual_seed(part_seed(seed, 0)) for seed in seeds]
            self.learner = self._learner(steps, weights)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A); those of tasks whose episode has ended are zero."""
        tasks = np.flatnonzero(self.active)
        obs_UO = torch.as_tensor(observations[tasks], dtype=torch.float32).to(self.device)
        if self.learner is None or (self.prior is not None and self.episode < self.config.prior_episodes):
            action_UA, log_mu_U = self._act_by_prior(tasks, obs_UO)
        else:
            greedy = self.deterministic and self.episode >= self.scored_from
            action_UA, log_mu_U = self.learner.act(tasks, obs_UO, greedy=greedy)
        actions_TA = np.zeros((len(self.active), self.actions), np.float32)
        actions_TA[tasks] = action_UA.cpu().numpy()
        self.log_mu_T[self.noise.tasks(tasks)] = log_mu_U
        return actions_TA

    @torch.no_grad()
    def _act_by_prior(self, tasks: IntArray, obs_UO: Tensor) -> tuple[Tensor, Tensor]:
        assert self.prior is not None
        prior = gaussian(self.prior, self.pretrained.std, obs_UO[:, None])
        action_U1A = prior.with_noise(self.noise(tasks, *prior.mean.shape[1:]))
        return action_U1A[:, 0], prior.log_prob(action_U1A)[:, 0]

    def observe(self, transition: Transition) -> None:
        """Stores the steps; updates the tasks that have made enough of them."""
        active = np.asarray(transition.active)
        self.active = active & ~(transition.terminated | transition.truncated)
        if self.learner is None:
            return

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32).to(self.device)

        tasks = np.flatnonzero(active)
        rows = self.learner.steps.count[tasks]
        self.learner.steps.add(
            active,
            obs=tensor(transition.observation),
            act=tensor(transition.action),
            reward=tensor(transition.reward),
            discount=tensor(1.0 - transition.terminated),
            obs_next=tensor(transition.next_observation),
            log_mu=self.log_mu_T,
        )
        self.learner.added(tasks, rows)
        self._update(tasks[(rows + 1) % self.config.steps_per_update == 0])

    def end_episode(self) -> None:
        """Updates all tasks."""
        self.episode += 1
        self.active[:] = True
        if self.learner is None:
            return
        everything = np.arange(len(self.active))
        for _ in range(self.config.updates_per_episode):
            self._update(everything)
        self.learner.steps.end_episode()
        self.history.append(
            {name: (sums_T / self._updates_T).tolist() for name, sums_T in self._sums.items()}
        )
        self._sums = {}
        self._updates_T.zero_()
        self._finetune()

    # -- updates ----------------------------------------------------------------------------------

    def _update(self, tasks: IntArray) -> None:
        if not len(tasks):
            return
        learner, config = self.learner, self.config
        assert learner is not None
        chunks = learner.steps.draw(tasks, self.generators, config.batch_size, config.chunk_length)
        for name, value_U in learner.update(chunks).items():
            sums_T = self._sums.setdefault(name, torch.zeros_like(self._updates_T))
            sums_T[chunks.tasks] += value_U
        self._updates_T[chunks.tasks] += 1.0

    def _finetune(self) -> None:
        if self.parts.finetunes and self.episode == self.config.finetune_after:
            assert isinstance(self.learner, FrozenPriorLearner)
            self.learner.unfreeze()

    # -- parameters -------------------------------------------------------------------------------

    def _learner(self, steps: TaskSteps, weights: list[torch.Generator]) -> Learner:
        """The learner of the variant, with new networks from each task's generator."""
        critics = TaskCritics(
            self._critic(weights),
            frozen=self.parts.critic == "features",
            steps=steps,
            config=self.config,
        )
        parts = Parts(self.config, self.pretrained.gamma, self.pretrained.std, steps, critics, self.noise)
        if self.parts.acts_by == "policy":
            return PolicyLearner(parts, self._gaussians(weights), self.prior)
        if self.prior is None:
            return LearnedPriorLearner(parts, self._gaussians(weights))
        return FrozenPriorLearner(parts, self.prior)

    def _critic(self, weights: list[torch.Generator]) -> Parameters:
        """Parameters of the critics before adaptation."""
        hidden, features = self.pretrained.critic_hidden, hidden_width(self.pretrained)
        if self.parts.critic == "features":
            assert self.pretrained.features is not None
            shared = stack([self.pretrained.features])
            parameters = {name: value for name, value in shared.items() if name.startswith("torso.")}
            weight_TF = torch.zeros(len(weights), features)
            if self.config.initial_weights == "random":
                # w ~ N(0, I / F), as printed below eq. 12.
                drawn = [torch.randn(features, generator=generator) for generator in weights]
                weight_TF = torch.stack(drawn) / features**0.5
            return parameters | {WEIGHTS: weight_TF.to(self.device)}
        networks = [
            ActionValue(
                self.observations, 0, self.actions, hidden, shared=False, described=False, generator=each
            )
            for each in weights
        ]
        parameters = {name: value.to(self.device) for name, value in stack(networks).items()}
        parameters[WEIGHTS], parameters[CONSTANT] = parameters[WEIGHTS][:, 0], parameters[CONSTANT][:, 0]
        return parameters

    def _gaussians(self, weights: list[torch.Generator]) -> Parameters:
        """Parameters of new policies or priors."""
        networks = [
            GaussianPolicy(
                self.observations,
                0,
                self.pretrained.hidden,
                self.actions,
                std=self.pretrained.std,
                generator=each,
            )
            for each in weights
        ]
        return {name: value.to(self.device) for name, value in stack(networks).items()}

    # -- state ------------------------------------------------------------------------------------

    def get_state(self) -> tuple[Arrays, dict[str, Any]]:
        """The state between two episodes of a trial: arrays, and values convertible to JSON."""
        values: dict[str, Any] = {
            "episode": self.episode,
            "generators": [numpy_state(generator) for generator in self.generators],
            "history": self.history,
        }
        if self.learner is None:
            return {}, values
        arrays = {f"learner.{name}": value.cpu().numpy() for name, value in self.learner.state().items()}
        steps, used = self.learner.steps, int(self.learner.steps.count.max())
        for name in steps.COLUMNS:
            arrays[f"steps.{name}"] = getattr(steps, name)[:, :used].cpu().numpy()
        for name in ("count", "begun", "first", "last"):
            arrays[f"steps.{name}"] = getattr(steps, name)
        return {name: value.copy() for name, value in arrays.items()}, values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned, after `begin_trial` with the same trial."""
        self.episode, self.history = int(values["episode"]), list(values["history"])
        for generator, state in zip(self.generators, values["generators"], strict=True):
            restore_numpy_state(generator, state)
        if self.learner is None:
            return
        steps = self.learner.steps
        for name in ("count", "begun", "first", "last"):
            getattr(steps, name)[:] = arrays[f"steps.{name}"]
        used = int(steps.count.max())
        for name in steps.COLUMNS:
            getattr(steps, name)[:, :used] = torch.from_numpy(arrays[f"steps.{name}"]).to(self.device)
        if self.parts.finetunes and self.episode >= self.config.finetune_after:
            assert isinstance(self.learner, FrozenPriorLearner)
            self.learner.unfreeze()
        for name, tensor in self.learner.state().items():
            tensor.copy_(torch.from_numpy(arrays[f"learner.{name}"]))
        self.learner.restored()


def hidden_width(pretrained: Pretrained) -> int:
    """Number of features F."""
    return pretrained.critic_hidden[-1]
