"""Windows of the past, cut out of whole episodes, against the episodes themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_agents.networks.gru import RollingContext, WindowGRU
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.windows import draw_history, entries_of, entry_size, first_entries

OBS, ACT = 3, 2
CAPACITY = 23


def make_episode(number, length):
    """An episode whose every number says which episode and step it is of."""
    g = np.random.default_rng(number)
    obs = g.normal(size=(length + 1, OBS)).astype(np.float32)
    obs[:, 0] = 1000 * (number + 1) + np.arange(length + 1)
    return {
        "obs": obs[:-1], "obs_next": obs[1:], "act": g.uniform(-1, 1, (length, ACT)).astype(np.float32),
        "rew": g.normal(size=length).astype(np.float32),
    }  # fmt: skip


def filled(lengths):
    """A buffer of two tasks with episodes of these lengths in turn; the oldest may be gone."""
    buffer = TaskReplayBuffer(2, CAPACITY, OBS, ACT, generator=np.random.default_rng(0))
    episodes = [make_episode(number, length) for number, length in enumerate(lengths)]
    for number, episode in enumerate(episodes):
        length = len(episode["rew"])
        stored = {name: column[None] for name, column in episode.items()}
        stored |= {"terminated": np.zeros((1, length), bool), "truncated": np.zeros((1, length), bool)}
        buffer.add_episodes(np.array([number % 2]), np.array([length]), stored, to_context=False)
    return buffer, episodes


def where(buffer, row):
    """Episode and step of a row, read from its observation."""
    mark = int(buffer.obs[row, 0])
    return mark // 1000 - 1, mark % 1000


lengths = st.lists(st.integers(1, 11), min_size=1, max_size=9)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 8), st.integers(0, 99))
def test_windows_equal_a_step_by_step_roll_of_the_same_episode(lengths, length, seed):
    buffer, episodes = filled(lengths)
    rows = buffer.sample_indices(0)
    generator = torch.Generator().manual_seed(seed)
    # Without noise the synthetic entry is known.
    history = draw_history(buffer, rows, length, noise=0.0, generator=generator)
    gru = WindowGRU(entry_size(OBS, ACT), 5, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        before, after = gru(*history.before), gru(*history.after)
    for column, row in enumerate(rows):
        number, step = where(buffer, row)
        episode = {name: torch.from_numpy(values) for name, values in episodes[number].items()}
        memory = RollingContext(gru, 1, length)
        context = memory.push(first_entries(episode["obs"][:1], torch.zeros(1, ACT), 0.3))
        for now in range(step + 1):
            if now == step:
                torch.testing.assert_close(before[column], context[0], rtol=1e-5, atol=1e-6)
            one = slice(now, now + 1)
            context = memory.push(entries_of(episode["obs"][one], episode["act"][one], episode["rew"][one]))
        torch.testing.assert_close(after[column], context[0], rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 14), st.integers(0, 99))
def test_windows_never_cross_an_episode_and_begin_with_one_synthetic_entry(lengths, length, seed):
    buffer, episodes = filled(lengths)
    rows = buffer.sample_indices(30)
    generator = torch.Generator().manual_seed(seed)
    history = draw_history(buffer, rows, length, noise=0.5, generator=generator)
    entries = history.entries.numpy()
    assert entries.shape == (length + 1, 30, entry_size(OBS, ACT))
    valid = np.ones(entries.shape[:2], bool) if history.valid is None else history.valid.numpy()
    for column, row in enumerate(rows):
        number, step = where(buffer, row)
        episode = episodes[number]
        # Entries of the episode's own steps, the last of which is the transition's.
        own = min(step + 1, length + 1)
        for back in range(own):
            entry = entries[length - back, column]
            assert np.array_equal(entry[:ACT], episode["act"][step - back])
            assert entry[ACT] == episode["rew"][step - back]
            assert np.array_equal(entry[ACT + 1 :], episode["obs"][step - back])
        synthetic = own <= length
        if synthetic:
            entry = entries[length - own, column]
            assert entry[ACT] == 0.0
            assert np.array_equal(entry[ACT + 1 :], episode["obs"][0])
            assert np.abs(entry[:ACT]).max() <= 1.0
            assert np.abs(entry[:ACT]).min() > 0.0
        assert valid[:, column].tolist() == [False] * (length + 1 - own - synthetic) + [True] * (
            own + synthetic
        )


def test_the_two_windows_are_views_of_the_same_entries():
    buffer, _ = filled([9, 9])
    generator = torch.Generator().manual_seed(0)
    history = draw_history(buffer, buffer.sample_indices(6), 4, noise=0.3, generator=generator)
    (before, _), (after, _) = history.before, history.after
    assert before.shape == after.shape == (4, 6, entry_size(OBS, ACT))
    assert before.data_ptr() == history.entries.data_ptr()
    assert torch.equal(before[1:], after[:-1])


def test_full_windows_need_no_mask_and_noise_has_its_size():
    buffer, _ = filled([11, 11])
    late = np.array([9, 10])
    generator = torch.Generator().manual_seed(0)
    assert draw_history(buffer, late, 5, noise=0.3, generator=generator).valid is None
    first = np.zeros(4000, np.int64)
    drawn = draw_history(buffer, first, 1, noise=0.3, generator=generator).entries[0, :, :ACT]
    assert drawn.std().item() == pytest.approx(0.3, rel=0.05)
    assert drawn.mean().abs().item() < 0.02
