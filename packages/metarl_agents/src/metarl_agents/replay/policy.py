"""Policies conditioned on task data in a replay buffer, and their agents for evaluation."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.policy import BatchPolicy
from metarl_agents.common.seeding import torch_stream
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


class MetaPolicy(BatchPolicy):
    """A policy conditioned on task data in a replay buffer.

    `begin_rollouts` starts rollouts and sets the task information of each one. `act` then advances
    all of them together.
    """

    #: Further columns (R,) of the replay buffer, which `act` leaves in `columns` for the step it chose.
    column_names: ClassVar[tuple[str, ...]] = ()
    columns: Mapping[str, Tensor]

    @abstractmethod
    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Prepares R rollouts.

        Args:
            tasks_R: task index of each rollout.
            conditioning: task information that the policy uses; each policy defines the names.
            buffer: buffer with the data of the tasks.
        """

    @abstractmethod
    def prepared(self) -> dict[str, Any]:
        """What `begin_rollouts` has decided: tensors and numbers by name.

        Together with weights and generator, it determines the actions of the rollouts in another process.
        """

    @abstractmethod
    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """Prepares `count` rollouts as in the process that `prepared` is from."""


class ExploringPolicy(MetaPolicy):
    """A policy with the conditionings "random" (uniform actions) and "exploring" (its own exploration)."""

    #: Name of the policy in messages.
    name: ClassVar[str]

    def __init__(self, *, action_space: Box, observation_space: Box, generator: torch.Generator) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.at_random = False

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Stores whether actions are uniformly random.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        if conditioning not in ("random", "exploring"):
            raise ValueError(
                f"the conditioning of {self.name} must be 'random' or 'exploring', not {conditioning!r}"
            )
        self.at_random = conditioning == "random"

    def prepared(self) -> dict[str, Any]:
        """See `MetaPolicy.prepared`."""
        return {"at_random": self.at_random}

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """See `MetaPolicy.prepare`."""
        self.at_random = decided["at_random"]


class MemorylessAgent:
    """Evaluation agent of a policy that depends only on the observation; it does not adapt in a trial.

    Args:
        policy: the acting policy.
        observe_task: whether its observations contain the task.
    """

    def __init__(self, policy: BatchPolicy, *, observe_task: bool = False) -> None:
        self.policy = policy
        self.observe_task = observe_task

    def begin_trial(self, trial: "Trial") -> None:
        """Seeds the policy for the trial."""
        self.deterministic = trial.deterministic
        self.policy.generator = torch_stream(trial.seed, "trial", self.policy.generator.device)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        return self.policy.act_on_arrays(observations, deterministic=self.deterministic)

    def observe(self, transition: "Transition") -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Does nothing."""
