"""The policy interface of collectors and evaluation, for off-policy and on-policy agents."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from torch import Tensor


class BatchPolicy(Policy):
    """A policy that acts for a set of rollouts at once, one row per rollout.

    Args:
        action_space: box of actions in [-1, 1].
        observation_space: box of observations.
        generator: random generator of the policy, on the device of its networks.
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
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) for the rollouts `rows`, or for all of them."""

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The array as a float32 tensor on the device of the policy."""
        return torch.as_tensor(array, dtype=torch.float32).to(self.generator.device)

    def act_on_arrays(self, observations_RO: NDArray[Any], *, deterministic: bool) -> NDArray[np.float32]:
        """Actions (R, A) of all rollouts, with arrays as input and output, for evaluation."""
        actions_RA = self.act(self.tensor(observations_RO), None, deterministic=deterministic)
        result: NDArray[np.float32] = actions_RA.cpu().numpy()
        return result

    def observe(self, observations_RO: Tensor, actions_RA: Tensor, rewards_R: Tensor) -> None:
        """Receives a step of all rollouts, unless all have ended; recurrent policies update their state.

        Rows of rollouts that have ended are arbitrary.

        Args:
            observations_RO: observations before the step.
            actions_RA: the actions taken.
            rewards_R: the environment's rewards.
        """

    def uniform_actions(self, count: int) -> Tensor:
        """Actions (count, A) drawn uniformly from [-1, 1]."""
        shape = (count, self.action_space.shape[0])
        return torch.rand(shape, generator=self.generator, device=self.generator.device) * 2 - 1

    def with_noise(self, actions_RA: Tensor, noise: float) -> Tensor:
        """The actions plus N(0, noise^2), clipped to [-1, 1]."""
        eps_RA = torch.randn(actions_RA.shape, generator=self.generator, device=actions_RA.device)
        return (actions_RA + noise * eps_RA).clamp_(-1.0, 1.0)

    @torch.no_grad()
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Tianshou's interface; rows are given by `batch.info.env_id` if it exists.

        Actions are sampled within a training step, and deterministic otherwise.
        """
        info = batch.info
        rows = info.env_id if hasattr(info, "env_id") else None
        observations = torch.as_tensor(np.asarray(batch.obs, np.float32), device=self.generator.device)
        deterministic = not self.is_within_training_step
        return Batch(act=self.act(observations, rows, deterministic=deterministic), state=state)
