"""Policies that receive the training task, their behaviour prior, and both as agents of an evaluation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.seeding import torch_stream
from metarl_agents.priors.learner import LOG_MU, LearnerPolicy
from metarl_agents.priors.networks import MultiTaskNetworks
from metarl_agents.priors.tasks import TrainingTasks
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


class MultiTaskPolicy(LearnerPolicy):
    """A policy that receives the index of each rollout's training task. Its one conditioning is "task".

    Actions are not clipped: their densities are those of the policy, and the environment clips them.

    Args:
        networks: all networks of the agent.
        tasks: the training tasks.
        config: the configuration.
        action_space: box of actions.
        observation_space: box of observations.
        generator: random generator of the policy.
    """

    column_names = (LOG_MU,)

    def __init__(
        self,
        *,
        networks: MultiTaskNetworks,
        tasks: TrainingTasks,
        config: Any,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.networks = networks
        self.tasks = tasks
        self.config = config
        self.task_RD = torch.zeros(0, tasks.width, device=generator.device)

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Stores the task of each rollout.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        if conditioning != "task":
            raise ValueError(f"the conditioning of a multi-task policy must be 'task', not {conditioning!r}")
        self.begin_tasks(tasks_R)

    def begin_tasks(self, tasks_R: NDArray[Any]) -> None:
        """Stores the task of each row of observations."""
        self.task_RD = self.tasks(tasks_R)

    def prepared(self) -> dict[str, Any]:
        """What `begin_rollouts` has decided, for another process with the same weights and generator."""
        return {"task_RD": self.task_RD}

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """Prepares `count` rollouts as in the process that `prepared` is from."""
        self.task_RD = decided["task_RD"].to(self.generator.device)

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) of the rollouts `rows`, or of all; their log-densities are in `columns`."""
        task_RD = self.task_RD if rows is None else self.task_RD[torch.as_tensor(rows)]
        actions_RA, log_mu_R = self.choose(observations_RO, task_RD, deterministic)
        self.columns = {LOG_MU: log_mu_R}
        return actions_RA

    @abstractmethod
    def choose(self, obs_RO: Tensor, task_RD: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Actions (R, A) and the logarithms (R,) of the densities with which they were drawn."""


class ActorPolicy(MultiTaskPolicy):
    """A Gaussian policy pi(a|s, i) of observation and task."""

    def choose(self, obs_RO: Tensor, task_RD: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """See `MultiTaskPolicy.choose`."""
        return self.drawn(self.networks.actor(obs_RO, task_RD), deterministic)


class TrainedTasksAgent:
    """Evaluation agent of a multi-task policy, on its training tasks; it does not adapt in a trial.

    Its observations contain the task's parameters, from which it finds the index of the training task.
    Actions are deterministic in scored episodes if the protocol says so, and otherwise sampled.

    Args:
        policy: the trained policy.
    """

    observe_task = True

    def __init__(self, policy: MultiTaskPolicy) -> None:
        self.policy = policy

    def begin_trial(self, trial: Trial) -> None:
        """Seeds the policy for the trial."""
        self.trial = trial
        self.finished_episodes = 0
        self.started = False
        self.policy.generator = torch_stream(trial.seed, "trial", self.policy.generator.device)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O + P).

        Raises:
            ValueError: when a task is not one of the training tasks.
        """
        size = observations.shape[1] - self.policy.tasks.parameters_size
        if not self.started:
            self.policy.begin_tasks(self.policy.tasks.index(observations[:, size:]))
            self.started = True
        scored = self.finished_episodes >= self.trial.adaptation_episodes
        return self.policy.act_on_arrays(
            observations[:, :size], deterministic=self.trial.deterministic and scored
        )

    def observe(self, transition: Transition) -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Counts the episode."""
        self.finished_episodes += 1


class PriorAgent:
    """Evaluation agent of a behaviour prior, on any task; it does not adapt in a trial.

    Actions are sampled in every episode, because the prior stands for the behaviours of all tasks.

    Args:
        policy: the policy with the networks.
    """

    observe_task = False

    def __init__(self, policy: MultiTaskPolicy) -> None:
        self.prior = policy.networks.prior
        self.device = policy.generator.device

    def begin_trial(self, trial: Trial) -> None:
        """Seeds the agent for the trial."""
        self.generator = torch_stream(trial.seed, "trial", self.device)

    @torch.no_grad()
    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        obs_TO = torch.as_tensor(observations, dtype=torch.float32).to(self.device)
        actions: NDArray[np.float32] = self.prior(obs_TO).draw(self.generator).cpu().numpy()
        return actions

    def observe(self, transition: Transition) -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Does nothing."""
