"""Steps of the trials of several tasks, in the order in which they were taken, and chunks of them.

Letters: T tasks, M steps that a task may have, U tasks of an update, B chunks, S steps of a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.replay.chunks import chunk_starts

IntArray = NDArray[np.int64]


class Chunks(NamedTuple):
    """B chunks of S steps of U tasks.

    Attributes:
        tasks: (U,) tasks.
        rows: (U, B * S) steps of each task, chunk by chunk; beyond the end of an episode, its last step.
        valid: (U, B * S), false beyond the end of the episode.
        length: number of steps S of a chunk.
    """

    tasks: Tensor
    rows: Tensor
    valid: Tensor
    length: int

    def of(self, column: Tensor) -> Tensor:
        """Values (U, B * S, ...) of a column (T, M, ...) of the steps."""
        return column[self.tasks[:, None], self.rows]


class TaskSteps:
    """All steps of a trial of T tasks; an episode that has not ended yet is part of them.

    Args:
        tasks: number of tasks T.
        capacity: largest number of steps M of a task.
        observations: size O of an observation.
        actions: size A of an action.
        device: device of the columns.
    """

    COLUMNS = ("obs", "act", "reward", "discount", "obs_next", "log_mu")

    def __init__(
        self, tasks: int, capacity: int, observations: int, actions: int, device: torch.device
    ) -> None:
        def column(*shape: int) -> Tensor:
            return torch.zeros(tasks, capacity, *shape, device=device)

        self.obs, self.obs_next, self.act = column(observations), column(observations), column(actions)
        #: Rewards, 0 where the episode ended in a terminal state, and log-densities of the actions.
        self.reward, self.discount, self.log_mu = column(), column(), column()
        self.capacity = capacity
        self.count = np.zeros(tasks, np.int64)
        #: Row of the first step of the episode that a step belongs to, and that of the current episode.
        self.first = np.zeros((tasks, capacity), np.int64)
        self.begun = np.zeros(tasks, np.int64)
        #: Last row of the episode that begins in a row.
        self.last = np.zeros((tasks, capacity), np.int64)

    def add(self, active: NDArray[np.bool_], **columns: Tensor) -> None:
        """Appends a step to each active task. Every column is (T, ...)."""
        tasks = np.flatnonzero(active)
        rows = self.count[tasks]
        where = (torch.from_numpy(tasks), torch.from_numpy(rows))
        for name in self.COLUMNS:
            column = getattr(self, name)
            column[where] = columns[name][where[0].to(columns[name].device)].to(column)
        self.first[tasks, rows] = self.begun[tasks]
        self.last[tasks, self.begun[tasks]] = rows
        self.count[tasks] += 1

    def end_episode(self) -> None:
        """The next step of every task is the first one of an episode."""
        self.begun = self.count.copy()

    def draw(
        self, tasks: IntArray, generators: list[np.random.Generator], chunks: int, length: int
    ) -> Chunks:
        """Chunks around steps drawn uniformly from each task's, with the task's generator."""
        drawn_UB = np.stack([generators[task].integers(0, self.count[task], chunks) for task in tasks])
        first_UB = self.first[tasks[:, None], drawn_UB]
        last_UB = self.last[tasks[:, None], first_UB]
        start_UB = first_UB + chunk_starts(drawn_UB - first_UB, last_UB - drawn_UB, length)
        rows_UBS = start_UB[..., None] + np.arange(length)
        valid_UBS = rows_UBS <= last_UB[..., None]
        rows_UBS = np.minimum(rows_UBS, last_UB[..., None])
        device, shape = self.obs.device, (len(tasks), -1)
        return Chunks(
            torch.from_numpy(tasks).to(device),
            torch.from_numpy(rows_UBS.reshape(shape)).to(device),
            torch.from_numpy(valid_UBS.reshape(shape)).to(device),
            length,
        )
