"""The context in which an algorithm is built: spaces and tasks of the family, seed and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

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
        task_parameters: values (K,) of each task parameter of the training tasks, by name, for agents
            that tell these tasks apart.
        family: id of the family, for agents that make environments of their own.
    """

    observation_space: Box
    action_space: Box
    num_tasks: int
    task_space: Box
    seed: int
    device: torch.device
    task_parameters: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    family: str = ""

    @classmethod
    def of(cls, env: Any, *, seed: int, device: torch.device) -> Self:
        """The context of a `metarl_envs.MetaVectorEnv` and its family.

        Args:
            env: the environment.
            seed: the run's seed.
            device: device of the networks.
        """
        tasks = env.family.tasks("train")
        vectors_KP = np.stack([task.vector for task in tasks])
        return cls(
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            num_tasks=len(tasks),
            task_space=env.family.task_space,
            seed=seed,
            device=device,
            task_parameters=dict(zip(env.family.parameter_names, vectors_KP.T, strict=True)),
            family=env.family.id,
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
