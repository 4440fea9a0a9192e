"""Trials found in a replay buffer by index arithmetic, beside lists of episodes kept in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.trials import TRIAL_STEP, draw_trials, running_trials

TASKS = 2


def make(capacity):
    generator = np.random.default_rng(0)
    return TaskReplayBuffer(TASKS, capacity, 1, 1, generator=generator, info_keys=(TRIAL_STEP,))


def add_trial(buffer, task, lengths, first):
    """Adds a trial of these episodes, whose observations count from `first` on; returns its observations."""
    buffer.clear_context(np.array([task]))
    taken = 0
    for length in lengths:
        number = np.arange(length)[None]
        buffer.add_episodes(
            np.array([task]),
            np.array([length]),
            {
                "obs": (first + taken + number)[..., None],
                "act": np.zeros((1, length, 1)),
                "rew": np.zeros((1, length)),
                "obs_next": np.zeros((1, length, 1)),
                "terminated": np.zeros((1, length), bool),
                "truncated": number == length - 1,
                TRIAL_STEP: taken + number,
            },
            to_context=True,
        )
        taken += length
    return list(range(first, first + taken))


trials = st.lists(
    st.tuples(st.integers(0, TASKS - 1), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(trials, st.integers(12, 30))
def test_exactly_the_whole_trials_are_drawn(given_trials, capacity):
    buffer, kept = make(capacity), {task: [] for task in range(TASKS)}
    first = 0
    for task, lengths in given_trials:
        kept[task].append(add_trial(buffer, task, lengths, first))
        first += sum(lengths)
    for task, found in kept.items():
        if not found:
            continue
        stored = {int(buffer.obs[row, 0]) for row in buffer.sample_tasks_rows(np.array([task]), 4000)[0]}
        whole = [trial for trial in found if set(trial) <= stored]
        assert found[-1] in whole
        drawn = draw_trials(buffer, np.full(300, task))
        seen = set()
        for rows, length, number, valid in zip(*drawn, drawn.valid, strict=True):
            steps = buffer.obs[rows, 0].astype(int).tolist()
            assert steps[:length] in whole
            assert steps[length:] == [steps[length - 1]] * (len(steps) - length)
            assert valid.sum() == length
            assert 0 <= number < length
            seen.add(steps[number])
        # Steps are drawn uniformly, so with 300 of at most 30 each whole trial is there.
        assert {trial[0] for trial in whole} <= {trial[0] for trial in found if seen & set(trial)}
        running = running_trials(buffer, np.array([task]))
        assert buffer.obs[running.rows[0], 0].astype(int).tolist() == found[-1]


def test_a_running_trial_may_be_empty():
    buffer = make(12)
    add_trial(buffer, 0, [3, 2], 0)
    running = running_trials(buffer, np.array([1, 0]))
    assert running.length.tolist() == [0, 5]
    assert running.valid.tolist() == [[False] * 5, [True] * 5]
    buffer.clear_context(np.array([0, 1]))
    assert running_trials(buffer, np.array([1, 0])).rows.shape == (2, 0)


def test_a_ring_that_is_too_small_for_a_trial_is_refused():
    buffer = make(6)
    add_trial(buffer, 0, [4, 4], 0)
    with pytest.raises(ValueError, match="rings of 6 transitions per task are too small for a trial"):
        draw_trials(buffer, np.array([0]))
