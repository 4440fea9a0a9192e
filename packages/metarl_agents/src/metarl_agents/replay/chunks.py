"""Chunks of consecutive steps, selected by index from whole episodes; nothing is stored twice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer


class ChunkRows(NamedTuple):
    """Rows of B chunks of S steps.

    Attributes:
        rows: (B, S) in temporal order; beyond the end of the episode, its last row is repeated.
        valid: (B, S), false beyond the end of the episode.
    """

    rows: IntArray
    valid: NDArray[np.bool_]


def chunk_starts(step_index: IntArray, steps_left: IntArray, length: int) -> IntArray:
    """First steps of the chunks around steps of episodes, within their episodes.

    A chunk begins half its length before the given step, moved so that it does not leave the episode. With
    a uniform choice of the step, no step is padding if the episode is long enough, and its last steps
    are in about as many chunks as the others: of uniformly chosen full chunks, only one would contain
    the last step, which is the only one with a reward where success ends the episode.

    Args:
        step_index: number of the step in its episode.
        steps_left: number of steps of the episode after it.
        length: number of steps S.
    """
    last = np.maximum(step_index.astype(np.int64) + steps_left + 1 - length, 0)
    return np.clip(step_index.astype(np.int64) - length // 2, 0, last)


def draw_chunks(buffer: TaskReplayBuffer, tasks_B: IntArray, length: int) -> ChunkRows:
    """One chunk of each task, around a step drawn uniformly from its transitions.

    Args:
        buffer: whole episodes.
        tasks_B: task of each chunk.
        length: number of steps S.

    Raises:
        ValueError: when a task has no transitions.
    """
    rows_B = buffer.sample_tasks_rows(tasks_B, 1)[:, 0]
    step_B, left_B = buffer.step_index[rows_B].astype(np.int64), buffer.steps_left[rows_B].astype(np.int64)
    # Steps relative to the drawn one.
    first_B = chunk_starts(step_B, left_B, length) - step_B
    relative_BS = first_B[:, None] + np.arange(length)
    valid_BS = relative_BS <= left_B[:, None]
    local_BS = rows_B[:, None] % buffer.capacity + np.minimum(relative_BS, left_B[:, None])
    return ChunkRows(tasks_B[:, None] * buffer.capacity + local_BS % buffer.capacity, valid_BS)
