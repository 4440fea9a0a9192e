"""Trials in a replay buffer: consecutive episodes of a task in which a policy keeps what it has seen.

The running trial of a task is its context view. Of stored trials, a column of the buffer has the number of
each step in its trial, from which whole trials are found by index arithmetic; nothing is stored twice.

Letters: B trials, L steps of the longest of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer

#: Column of the buffer: number of the step in its trial, from 0 on.
TRIAL_STEP = "trial_step"


class TrialRows(NamedTuple):
    """Rows of B trials.

    Attributes:
        rows: (B, L) in temporal order; beyond the end of a trial, its last row is repeated.
        length: number of steps (B,) of each trial.
        drawn: number (B,) in its trial of the step by which a trial was chosen.
    """

    rows: IntArray
    length: IntArray
    drawn: IntArray

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(B, L), false beyond the end of a trial."""
        return np.arange(self.rows.shape[1]) < self.length[:, None]


def running_trials(buffer: TaskReplayBuffer, tasks_B: IntArray) -> TrialRows:
    """The steps of the running trials of these tasks, of which some or all may not have any yet."""
    first_B = buffer.context_start[tasks_B]
    length_B = buffer.context_end[tasks_B] - first_B
    return TrialRows(_rows(buffer, tasks_B, first_B, length_B), length_B, length_B - 1)


def draw_trials(buffer: TaskReplayBuffer, tasks_B: IntArray) -> TrialRows:
    """A whole trial of each of these tasks, by a step that is drawn uniformly from its whole trials.

    Raises:
        ValueError: when a task has no transitions, or none of its trials is stored as a whole.
    """
    newest_B = buffer.head[tasks_B] - 1
    if np.any(_first(buffer, tasks_B, newest_B) < buffer.tail[tasks_B]):
        raise ValueError(
            f"the rings of {buffer.capacity} transitions per task are too small for a trial: increase the"
            " capacity"
        )
    step_B = _counter(buffer, tasks_B, buffer.sample_tasks_rows(tasks_B, 1)[:, 0])
    # The beginning of the oldest trial may have been overwritten.
    while len(lost := np.flatnonzero(_first(buffer, tasks_B, step_B) < buffer.tail[tasks_B])):
        rows = buffer.sample_tasks_rows(tasks_B[lost], 1)[:, 0]
        step_B[lost] = _counter(buffer, tasks_B[lost], rows)
    first_B = _first(buffer, tasks_B, step_B)
    # The last step of the episode, then of each following one that does not begin a trial.
    last_B = step_B + buffer.steps_left[_row(buffer, tasks_B, step_B)]
    while True:
        next_B = np.minimum(last_B + 1, newest_B)
        rows_B = _row(buffer, tasks_B, next_B)
        goes_on_B = (last_B < newest_B) & (buffer.info[TRIAL_STEP][rows_B] > 0)
        if not goes_on_B.any():
            break
        last_B = np.where(goes_on_B, next_B + buffer.steps_left[rows_B], last_B)
    length_B = last_B - first_B + 1
    return TrialRows(_rows(buffer, tasks_B, first_B, length_B), length_B, step_B - first_B)


def _first(buffer: TaskReplayBuffer, tasks_B: IntArray, step_B: IntArray) -> IntArray:
    """Counters of the first steps of the trials of these steps."""
    number_B = buffer.info[TRIAL_STEP][_row(buffer, tasks_B, step_B)]
    first_B: IntArray = step_B - number_B.astype(np.int64)
    return first_B


def _row(buffer: TaskReplayBuffer, tasks_B: IntArray, counter_B: IntArray) -> IntArray:
    """Rows of the steps with these counters."""
    return tasks_B * buffer.capacity + counter_B % buffer.capacity


def _counter(buffer: TaskReplayBuffer, tasks_B: IntArray, rows_B: IntArray) -> IntArray:
    """Counters of the steps in these rows."""
    tail_B = buffer.tail[tasks_B]
    counter_B: IntArray = tail_B + (rows_B - tasks_B * buffer.capacity - tail_B) % buffer.capacity
    return counter_B


def _rows(buffer: TaskReplayBuffer, tasks_B: IntArray, first_B: IntArray, length_B: IntArray) -> IntArray:
    """Rows (B, L) from these first steps on."""
    steps_L = np.arange(max(length_B, default=0))
    steps_BL = np.minimum(steps_L, np.maximum(length_B[:, None] - 1, 0))
    return _row(buffer, tasks_B[:, None], first_B[:, None] + steps_BL)
