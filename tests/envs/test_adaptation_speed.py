"""How fast agents adapt: areas under adaptation curves, episodes until a level, comparisons of both."""

import dataclasses

import numpy as np
import pytest
from evaluation_fakes import fake_report
from hypothesis import given
from hypothesis import strategies as st

from metarl_envs.evaluation import (
    Pooled,
    adaptation_curve,
    compare,
    curve_area,
    curve_means,
    episodes_until,
    paired_difference,
)
from metarl_envs.evaluation.statistics import running_mean


def report(returns, **references):
    """A report (R, 3 tasks, K) with these returns and references that are equal on all tasks."""
    runs, tasks, episodes = returns.shape
    found = fake_report(adaptation_episodes=episodes - 1, scored_episodes=1, seeds=range(runs))
    levels = {name: np.full((runs, tasks), level) for name, level in references.items()}
    return dataclasses.replace(found, returns=returns, references=levels)


RISING = np.broadcast_to(np.arange(6.0), (2, 3, 6))


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12), st.integers(1, 14))
def test_running_mean_is_that_of_the_last_entries(values, window):
    expected = [np.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    np.testing.assert_allclose(running_mean(values, window), expected, atol=1e-12)


def test_a_curve_may_be_of_running_means():
    rng = np.random.default_rng(0)
    assert adaptation_curve(report(RISING), rng=rng).estimate.tolist() == [0, 1, 2, 3, 4, 5]
    smooth = adaptation_curve(report(RISING), window=3, rng=rng)
    np.testing.assert_allclose(smooth.estimate, [0, 0.5, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        adaptation_curve(report(RISING), window=0, rng=rng)


def test_area_is_the_mean_return_of_the_episodes():
    found = report(RISING + np.array([0.0, 3.0, 6.0])[None, :, None])
    np.testing.assert_allclose(curve_means(found), [[2.5, 5.5, 8.5]] * 2)
    np.testing.assert_allclose(curve_means(found, (2, 3)), [[1.5, 4.5, 7.5]] * 2)
    area = curve_area(found)
    assert area.value == pytest.approx(5.5)
    assert area.low == area.high == pytest.approx(5.5)  # the seeds are equal
    for wrong in ((0, 3), (4, 3), (1, 7)):
        with pytest.raises(ValueError, match="episodes must be two numbers from 1 to 6"):
            curve_means(found, wrong)


def test_episodes_until_a_share_of_the_gap_between_references():
    found = report(RISING - 10.0, zero=-11.0, oracle=-6.0)
    # The running means of three episodes are -10, -9.5, -9, -8, -7, -6.
    assert episodes_until(found, 0.2) == 1
    assert episodes_until(found, 0.8) == 5
    assert episodes_until(found, 0.8, window=1) == 4
    assert episodes_until(found, 1.01) is None
    assert episodes_until(Pooled((found, found)), 0.8) == 5
    with pytest.raises(ValueError, match="needs the reference 'zero'; the result has none"):
        episodes_until(report(RISING))
    with pytest.raises(ValueError, match="high must exceed low"):
        episodes_until(report(RISING, zero=1.0, oracle=0.0))


def test_returns_along_the_trials_are_compared_instead_of_scores():
    noise = np.random.default_rng(0).normal(size=(2, 3, 6))
    early = np.broadcast_to([0.0, 5, 5, 5, 5, 5], (2, 3, 6)) + noise
    late = np.broadcast_to([0.0, 0, 0, 0, 5, 5], (2, 3, 6)) + noise
    assert compare(report(early), report(late)).difference.value == pytest.approx(0.0)
    whole = compare(report(early), report(late), episodes=(1, 6))
    assert whole.difference.value == pytest.approx(2.5)
    assert compare(report(early), report(late), episodes=(2, 4)).difference.value == pytest.approx(5.0)
    assert compare(report(early), report(late), episodes=(5, 6)).difference.value == pytest.approx(0.0)
    seeds = [Pooled((report(x), report(x + 0.1))) for x in (early, late)]
    assert compare(*seeds, episodes=(1, 6)).difference.value == pytest.approx(2.5)
    assert compare(*seeds, episodes=(1, 6)).separable


def test_differences_of_methods_that_share_their_training_runs_are_paired_by_run():
    """The training runs differ by far more than the methods, which the pairing removes."""
    rng = np.random.default_rng(0)
    levels = np.array([-50.0, 0.0, 50.0])
    runs = [np.broadcast_to(level, (1, 3, 6)) + rng.normal(size=(1, 3, 1)) for level in levels]
    rises = np.array([0.0, 0, 0, 1, 2, 3])
    better = Pooled(tuple(report(run + rises) for run in runs))
    worse = Pooled(tuple(report(run) for run in runs))
    whole = paired_difference(better, worse)
    np.testing.assert_allclose(whole, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(paired_difference(better, worse, (1, 3)), [0.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(paired_difference(worse, better, (4, 6)), [-2.0, -2.0, -2.0])
    assert not compare(better, worse, episodes=(1, 6)).separable
    # One run that contradicts the others is in a third of the resamples' rows: the interval shows it.
    mixed = Pooled(tuple(report(run + rise) for run, rise in zip(runs, (3.0, 3.0, -3.0), strict=True)))
    found = paired_difference(mixed, worse)
    assert found.value == pytest.approx(1.0)
    assert (found.low, found.high) == (pytest.approx(-3.0), pytest.approx(3.0))
    np.testing.assert_allclose(paired_difference(mixed, worse, over_runs=False), [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="need the same training runs, got 3 and 2 of them"):
        paired_difference(better, Pooled(worse.reports[:2]))
