"""What is learned of the tasks of a trial, and what acts.

A learner acts and learns for T tasks at the same time. Its losses are sums over tasks, and gradients are
clipped for each task, so it does for each task what it would do for that task alone.

Letters: T tasks, U tasks of an update, N rows (steps of chunks), A action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl_agents.iwpa.config import AdaptationConfig
from metarl_agents.iwpa.critics import TaskCritics
from metarl_agents.iwpa.steps import Chunks, IntArray, TaskSteps
from metarl_agents.networks.functional import Parameters

Std = tuple[float, float, float]


class Noise:
    """Random numbers of tasks, each from the generator of its task.

    Args:
        generators: one for each task.
        device: device of the results.
    """

    def __init__(self, generators: list[np.random.Generator], device: torch.device) -> None:
        self.generators, self.device = generators, device

    def __call__(self, tasks: IntArray, *shape: int) -> Tensor:
        """Standard normal numbers (U, *shape)."""
        drawn = [self.generators[task].standard_normal(shape, np.float32) for task in tasks]
        return torch.from_numpy(np.stack(drawn)).to(self.device)

    def uniform(self, tasks: IntArray) -> Tensor:
        """One number (U,) from [0, 1) of each task."""
        drawn = [self.generators[task].random(dtype=np.float32) for task in tasks]
        return torch.from_numpy(np.array(drawn)).to(self.device)

    def tasks(self, tasks: IntArray) -> Tensor:
        """Indices of tasks (U,) on the device."""
        return torch.from_numpy(tasks).to(self.device)


@dataclass(frozen=True)
class Parts:
    """What every learner is made of.

    Attributes:
        config: the settings.
        gamma: discount factor.
        std: lowest, initial and highest standard deviation of actions.
        steps: the steps of all tasks.
        critics: the critics of all tasks.
        noise: random numbers of each task.
    """

    config: AdaptationConfig
    gamma: float
    std: Std
    steps: TaskSteps
    critics: TaskCritics
    noise: Noise


class Learner(ABC):
    """Acts and learns for the tasks of a trial.

    Args:
        parts: what it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.config = parts, parts.config
        self.steps, self.critics, self.noise = parts.steps, parts.critics, parts.noise

    @abstractmethod
    def act(self, tasks: IntArray, obs_UO: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions (U, A) of some tasks, and their log-densities (U,)."""

    def added(self, tasks: IntArray, rows: IntArray) -> None:
        """Computes what is kept of new steps, one of each of these tasks."""
        self.critics.added(self.noise.tasks(tasks), self.noise.tasks(rows))

    @abstractmethod
    def update(self, chunks: Chunks) -> dict[str, Tensor]:
        """One step of all that is learned. Returns numbers (U,) about it."""

    def target(self, chunks: Chunks, value_UN: Tensor) -> Tensor:
        """Targets r + gamma V(s') of the steps of the chunks, V = 0 after a terminal state."""
        discount_UN = self.parts.gamma * chunks.of(self.steps.discount)
        return chunks.of(self.steps.reward) + discount_UN * value_UN

    def state(self) -> Parameters:
        """All that changes, as the tensors that hold it."""
        return {f"critics.{name}": value for name, value in self.critics.networks.state().items()}

    def restored(self) -> None:
        """Computes again, after the state was restored, what follows from it."""
        if self.critics.frozen:
            for row in range(int(self.steps.count.max())):
                tasks = np.flatnonzero(self.steps.count > row)
                self.critics.added(self.noise.tasks(tasks), self.noise.tasks(np.full(len(tasks), row)))


def states(steps: TaskSteps, chunks: Chunks) -> Tensor:
    """Observations (U, B, S + 1, O) of chunks: the first one, and those after each step."""
    rows_UBS = chunks.rows.view(len(chunks.tasks), -1, chunks.length)
    tasks_U1 = chunks.tasks[:, None]
    first_UB1O = steps.obs[tasks_U1, rows_UBS[..., 0]][:, :, None]
    return torch.cat((first_UB1O, steps.obs_next[tasks_U1[..., None], rows_UBS]), 2)
