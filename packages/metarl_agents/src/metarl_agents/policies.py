"""Actors and the policy interface that collectors and evaluation drive."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from torch import Tensor, nn

from metarl_agents.distributions import split_output, tanh_gaussian_act, tanh_gaussian_draw
from metarl_agents.networks import mlp
from metarl_agents.task_buffer import IntArray, TaskReplayBuffer


class TanhGaussianActor(nn.Module):
    """Perceptron with a tanh-squashed diagonal Gaussian over actions in (-1, 1).

    The last layer starts at U(±1e-3), half of it for the mean and half for the log standard
    deviation (PEARL's released code).
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], actions: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.network = mlp(inputs, hidden, 2 * actions, generator=generator, last_bound=1e-3)

    def forward(self, inputs_BI: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the tanh, both (B, A)."""
        return split_output(self.network(inputs_BI))

    def act(self, inputs_BI: Tensor, generator: torch.Generator, *, deterministic: bool) -> Tensor:
        """Actions (B, A): a sample, or tanh of the mean."""
        mean_BA, log_std_BA = self(inputs_BI)
        return tanh_gaussian_act(mean_BA, log_std_BA, generator, deterministic=deterministic)

    def rsample(self, inputs_BI: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reparameterised action (B, A), its log-density (B,), mean and log std (B, A)."""
        mean_BA, log_std_BA = self(inputs_BI)
        return tanh_gaussian_draw(mean_BA, log_std_BA, generator)


class MetaPolicy(Policy):  # type: ignore[misc]
    """A policy that acts for a set of rollouts at once, each on a task of its own.

    Rollouts are started by `begin_rollouts`, which settles what the policy knows of each one's
    task, and then advance together through `act`, one row per rollout.

    Args:
        action_space: box of actions in [-1, 1].
        observation_space: box of observations.
        generator: source of the policy's random choices, on the device it computes on.
    """

    def __init__(self, *, action_space: Box, observation_space: Box, generator: torch.Generator) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=False,
            action_bound_method=None,
        )
        self.generator = generator

    @abstractmethod
    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Prepares R rollouts.

        Args:
            tasks_R: task index of each rollout.
            conditioning: what the policy is to know of the task; each policy names its own.
            buffer: where it finds what was gathered on the tasks.
        """

    @abstractmethod
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) for the rollouts `rows`, or for all of them."""

    @torch.no_grad()
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Tianshou's interface; rows are found by `batch.info.env_id` where there is one.

        Within a training step actions are sampled, elsewhere they are deterministic.
        """
        info = batch.info
        rows = info.env_id if hasattr(info, "env_id") else None
        observations = torch.as_tensor(np.asarray(batch.obs, np.float32), device=self.generator.device)
        deterministic = not self.is_within_training_step
        return Batch(act=self.act(observations, rows, deterministic=deterministic), state=state)
