"""The context in which an algorithm is built: spaces and tasks of the family, seed and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from gymnasium.spaces import Box

from metarl_agents.common.seeding import torch_stream


@dataclass(frozen=True)
class Context:
    """Arguments of an algorithm's `from_config` in addition to the configuration.

    Attributes:
        observation_space: box of one environment's observations, including the task if it is observed.
        action_space: box of one environment's actions.
        num_tasks: number of training tasks.
        task_space: box of the task parameters.
        seed: the run's seed, which determines weights and noise.
        device: device of the networks.
    """

    observation_space: Box
    action_space: Box
    num_tasks: int
    task_space: Box
    seed: int
    device: torch.device

    @classmethod
    def of(cls, env: Any, *, seed: int, device: torch.device) -> Self:
        """The context of a `metarl_envs.MetaVectorEnv` and its family.

        Args:
            env: the environment.
            seed: the run's seed.
            device: device of the networks.
        """
        return cls(
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            num_tasks=len(env.family.tasks("train")),
            task_space=env.family.task_space,
            seed=seed,
            device=device,
        )

    @property
    def observations(self) -> int:
        """Size of an observation."""
        return int(self.observation_space.shape[0])

    @property
    def actions(self) -> int:
        """Size of an action."""
        return int(self.action_space.shape[0])

    def weights(self) -> torch.Generator:
        """The CPU generator of initial weights, so that a seed gives the same weights on every device."""
        return torch_stream(self.seed, "weights")

    def stream(self, name: str) -> torch.Generator:
        """A generator of the run on the device, see `seeding`."""
        return torch_stream(self.seed, name, self.device)
