"""The task buffer against a plain list of episodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tianshou.data import ReplayBuffer

from metarl_agents.replay.buffer import TaskReplayBuffer

TASKS, CAPACITY, HORIZON = 3, 17, 6


def make_buffer(info_keys=()):
    return TaskReplayBuffer(TASKS, CAPACITY, 2, 1, generator=np.random.default_rng(0), info_keys=info_keys)


def make_episodes(lengths, first_id):
    """Blocks (N, H) in which every step has a number of its own; beyond the end there is junk."""
    count = len(lengths)
    step = np.arange(HORIZON)
    number = 1000.0 * (first_id + np.arange(count))[:, None] + step
    number = np.where(step < np.array(lengths)[:, None], number, np.nan)
    end = step == np.array(lengths)[:, None] - 1
    return {
        "obs": np.stack([number, -number], -1),
        "act": number[..., None] / 7,
        "rew": number + 0.5,
        "terminated": end & (np.arange(count) % 2 == 0)[:, None],
        "truncated": end & (np.arange(count) % 2 == 1)[:, None],
        "obs_next": np.stack([number + 1, -number - 1], -1),
    }


class Reference:
    """The same contract on Python lists: rings, whole-episode eviction, context view."""

    def __init__(self):
        self.episodes = [[] for _ in range(TASKS)]  # (numbers, in context)

    def add(self, task, numbers, to_context):
        self.episodes[task].append([list(numbers), to_context])

    def trim(self, task):
        while sum(len(e[0]) for e in self.episodes[task]) > CAPACITY:
            self.episodes[task].pop(0)

    def clear(self, task):
        for episode in self.episodes[task]:
            episode[1] = False

    def steps(self, task):
        return [n for e in self.episodes[task] for n in e[0]]

    def context(self, task):
        return [n for e in self.episodes[task] if e[1] for n in e[0]]


blocks = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, TASKS - 1), st.integers(1, HORIZON)), min_size=1, max_size=2),
        st.sampled_from(["clear and add", "add outside"]),
    ),
    max_size=12,
)


@given(blocks)
@settings(max_examples=150, deadline=None)
def test_buffer_holds_what_a_list_of_episodes_holds(calls):
    buffer, reference, number = make_buffer(), Reference(), 0
    for episodes, kind in calls:
        tasks = np.array([task for task, _ in episodes])
        lengths = np.array([length for _, length in episodes])
        if kind == "clear and add":
            buffer.clear_context(np.unique(tasks))
            for task in np.unique(tasks):
                reference.clear(task)
        data = make_episodes(lengths, number)
        rows = buffer.add_episodes(tasks, lengths, data, to_context=kind == "clear and add")
        assert (buffer.obs[rows, 0] % 1000 == np.concatenate([np.arange(n) for n in lengths])).all()
        for i, (task, length) in enumerate(episodes):
            reference.add(task, data["obs"][i, :length, 0], kind == "clear and add")
        for task in tasks:
            reference.trim(task)
        number += len(episodes)

    everything = buffer.sample_indices(0)
    expected = [n for task in range(TASKS) for n in reference.steps(task)]
    assert buffer.obs[everything, 0].tolist() == expected
    assert len(buffer) == len(expected)
    for task in range(TASKS):
        stored, context = reference.steps(task), reference.context(task)
        assert buffer.head[task] - buffer.tail[task] == len(stored)
        if stored:
            rows = buffer.sample_tasks_rows(np.array([task]), 64)
            assert rows.shape == (1, 64)
            assert set(buffer.obs[rows, 0].ravel()) <= set(stored)
            assert (rows // CAPACITY == task).all()
        if context:
            rows = buffer.sample_context_rows(np.array([task]), 64)
            assert set(buffer.obs[rows, 0].ravel()) <= set(context)
        else:
            with pytest.raises(ValueError, match="no context"):
                buffer.sample_context_rows(np.array([task]), 1)
    # Neighbours stop at the ends of episodes.
    values = buffer.obs[:, 0]
    for row in everything:
        previous, following = values[buffer.prev(int(row))], values[buffer.next(int(row))]
        assert previous == (values[row] if values[row] % 1000 == 0 else values[row] - 1)
        assert following == (values[row] if buffer.done[row] else values[row] + 1)


@given(blocks, st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_recent_rows_are_among_the_newest_and_reach_all_of_them(calls, last):
    buffer, number = make_buffer(), 0
    for episodes, _ in calls:
        tasks, lengths = (np.array(x) for x in zip(*episodes, strict=True))
        buffer.add_episodes(tasks, lengths, make_episodes(lengths, number), to_context=False)
        number += len(episodes)
    tasks = np.flatnonzero(buffer.head)
    rows = buffer.sample_recent_rows(tasks, 400, last)
    for task, drawn in zip(tasks, rows, strict=True):
        held = buffer.head[task] - buffer.tail[task]
        ages = np.arange(max(0, held - last), held)
        assert set(drawn) == set(buffer._rows(np.array([task]), ages[None])[0])


@given(blocks, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_windows_end_at_their_row_and_never_cross_an_episode_start(calls, length):
    buffer, number = make_buffer(), 0
    for episodes, _ in calls:
        tasks, lengths = (np.array(x) for x in zip(*episodes, strict=True))
        buffer.add_episodes(tasks, lengths, make_episodes(lengths, number), to_context=False)
        number += len(episodes)
    if not len(buffer):
        return
    tasks = np.flatnonzero(buffer.head)
    rows = buffer.sample_tasks_rows(tasks, 8)
    windows, mask = buffer.windows(rows, length)
    assert windows.shape == mask.shape == (len(tasks), 8, length)
    assert (windows[..., -1] == rows).all()
    assert mask[..., -1].all()
    numbers = buffer.obs[windows, 0]
    assert (numbers // 1000 == numbers[..., -1:] // 1000).all()
    step = numbers[..., -1:] % 1000 - np.arange(length - 1, -1, -1)
    assert (mask == (step >= 0)).all()
    assert (numbers % 1000 == np.maximum(step, 0)).all()


def test_meta_batch_is_one_gather_with_leading_task_and_batch_axes():
    buffer = make_buffer(("dense",))
    data = make_episodes([4, 5, 6], 0)
    data["dense"] = np.ones((3, HORIZON))
    buffer.add_episodes(np.arange(3), np.array([4, 5, 6]), data, to_context=True)
    batch = buffer.sample_tasks_batch(np.array([2, 0, 2, 1]), 7)
    assert batch.obs.shape == (4, 7, 2)
    assert batch.rew.shape == batch.info.dense.shape == (4, 7)
    assert (batch.obs[:, :, 0] // 1000 == np.array([2, 0, 2, 1])[:, None]).all()
    assert isinstance(buffer, ReplayBuffer)
    assert buffer.hasnull() is False
    assert len(buffer.sample(5)[0]) == 5
    assert not len(buffer.unfinished_index())


def test_sampling_is_uniform_over_transitions_and_driven_by_its_own_generator():
    buffer = make_buffer()
    buffer.add_episodes(np.array([0, 1]), np.array([2, 6]), make_episodes([2, 6], 0), to_context=True)
    flat = buffer.sample_indices(20_000)
    assert abs((flat < CAPACITY).mean() - 2 / 8) < 0.02
    counts = np.bincount(buffer.sample_tasks_rows(np.array([1]), 20_000)[0] - CAPACITY, minlength=6)
    assert abs(counts / 20_000 - 1 / 6).max() < 0.02
    state, np_state = buffer.generator_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = buffer.sample_tasks_rows(np.array([0, 1]), 9)
    buffer.load_generator_state(state)
    assert (buffer.sample_tasks_rows(np.array([0, 1]), 9) == first).all()
    assert (np.random.get_state()[1] == np_state).all()  # noqa: NPY002


def test_state_goes_through_arrays_and_back():
    buffer = make_buffer(("dense",))
    for number in range(5):
        data = make_episodes([5, 6], 2 * number)
        data["dense"] = np.ones((2, HORIZON))
        buffer.clear_context(np.array([0, 2]))
        buffer.add_episodes(np.array([0, 2]), np.array([5, 6]), data, to_context=True)
    other = make_buffer(("dense",))
    other.load_state_arrays(buffer.state_arrays())
    other.load_generator_state(buffer.generator_state())
    for a, b in zip(buffer.state_arrays().items(), other.state_arrays().items(), strict=True):
        assert a[0] == b[0]
        assert np.array_equal(a[1], b[1])
    rows = buffer.sample_context_rows(np.array([0, 2]), 30)
    assert (rows == other.sample_context_rows(np.array([0, 2]), 30)).all()
    assert np.array_equal(buffer.obs[rows], other.obs[rows])
    small = TaskReplayBuffer(2, 17, 2, 1, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="has 3 tasks"):
        small.load_state_arrays(buffer.state_arrays())


def test_refusals_leave_the_buffer_as_it_was():
    buffer = make_buffer()
    buffer.add_episodes(np.array([0]), np.array([3]), make_episodes([3], 0), to_context=False)
    with pytest.raises(ValueError, match="must be contiguous"):
        buffer.add_episodes(np.array([0]), np.array([3]), make_episodes([3], 1), to_context=True)
    bad = make_episodes([3], 1)
    bad["rew"][0, 1] = np.inf
    with pytest.raises(ValueError, match="'rew' that is not finite"):
        buffer.add_episodes(np.array([0]), np.array([3]), bad, to_context=False)
    with pytest.raises(ValueError, match="increase the buffer's capacity"):
        buffer.add_episodes(np.zeros(4, int), np.array([6] * 4), make_episodes([6] * 4, 1), to_context=False)
    with pytest.raises(TypeError, match="whole episodes"):
        buffer.add(None)
    assert len(buffer) == 3
    with pytest.raises(ValueError, match="task 2 has no transitions in the buffer yet"):
        buffer.sample_tasks_rows(np.array([0, 2, 1]), 4)
    buffer.reset()
    assert len(buffer) == 0
