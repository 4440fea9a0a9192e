"""Statistics: closed forms, invariances, and agreement with rliable."""

import inspect

import numpy as np
import pytest
import rliable.library
import rliable.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metarl_envs.evaluation import (
    iqm,
    normalised,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
    stratified_bootstrap_interval,
    task_bootstrap_interval,
)

# Multiples of 1/8 make ties likely and keep differences exact in float64.
numbers = st.integers(-800, 800).map(lambda n: n / 8)
matrices = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=numbers)
seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=50)


def rng(seed=0):
    return np.random.default_rng(seed)


@given(st.integers(1, 60), numbers, numbers)
@quick
def test_iqm_of_an_arithmetic_sequence_is_its_mean(count, first, difference):
    sequence = first + difference * np.arange(count)
    assert iqm(sequence) == pytest.approx(sequence.mean(), abs=1e-9)


def test_iqm_drops_a_quarter_at_each_end():
    assert iqm([-1e9, 1.0, 2.0, 1e9]) == 1.5
    assert iqm(np.arange(8.0) ** 2) == (4 + 9 + 16 + 25) / 4
    assert iqm([1.0, 2.0, 6.0]) == 3.0  # too few to drop any


@given(matrices, seeds, numbers, numbers)
@quick
def test_iqm_ignores_order_and_follows_affine_maps(scores, seed, scale, shift):
    shuffled = rng(seed).permutation(scores.ravel())
    assert iqm(shuffled) == iqm(scores)
    assert iqm(scale * scores + shift) == pytest.approx(scale * iqm(scores) + shift, abs=1e-8)


@given(matrices)
@quick
def test_iqm_reduces_the_axes_it_is_told_to(scores):
    np.testing.assert_array_equal(iqm(scores, axis=1), [iqm(row) for row in scores])
    np.testing.assert_array_equal(iqm(scores, axis=0), [iqm(column) for column in scores.T])
    stack = np.stack([scores, 2 * scores])
    np.testing.assert_array_equal(iqm(stack, axis=(1, 2)), [iqm(scores), iqm(2 * scores)])


@given(matrices, seeds, st.sampled_from([iqm, np.mean, np.median]))
@quick
def test_intervals_come_from_their_own_bootstrap_distribution(scores, seed, statistic):
    values = stratified_bootstrap(scores, statistic, repetitions=60, rng=rng(seed))
    low, high = stratified_bootstrap_interval(scores, statistic, 60, rng=rng(seed))
    assert values.shape == (60,)
    assert scores.min() - 1e-9 <= low <= np.median(values) <= high <= scores.max() + 1e-9
    assert np.mean((values >= low) & (values <= high)) >= 0.9
    assert (low, high) == stratified_bootstrap_interval(scores, statistic, 60, rng=rng(seed))


@given(matrices, seeds)
@quick
def test_a_higher_confidence_never_gives_a_narrower_interval(scores, seed):
    for bootstrap in (stratified_bootstrap_interval, task_bootstrap_interval):
        narrow = bootstrap(scores, repetitions=60, confidence=0.5, rng=rng(seed))
        wide = bootstrap(scores, repetitions=60, confidence=0.99, rng=rng(seed))
        assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_bootstrap_of_the_mean_has_the_closed_form_variance():
    scores = rng(1).normal(size=(5, 8)) + np.arange(8)
    runs, tasks = scores.shape
    over_runs = stratified_bootstrap(scores, np.mean, repetitions=40_000, rng=rng(2))
    assert over_runs.mean() == pytest.approx(scores.mean(), abs=0.01)
    assert over_runs.var() == pytest.approx(scores.var(axis=0).sum() / runs / tasks**2, rel=0.05)
    one_run = scores[:1]
    over_tasks = stratified_bootstrap(one_run, np.mean, repetitions=40_000, rng=rng(3), over_tasks=True)
    assert over_tasks.var() == pytest.approx(one_run.var() / tasks, rel=0.05)


def test_one_run_has_a_task_interval_but_no_run_interval():
    scores = np.arange(12.0)[None]
    assert stratified_bootstrap_interval(scores, rng=rng()) == (5.5, 5.5)
    low, high = task_bootstrap_interval(scores, rng=rng())
    assert low < 5.5 < high


@pytest.mark.parametrize("block", [5 * 12, 12, 1])  # several resamples, one, and less than one
def test_blocks_hold_every_repetition(block, monkeypatch):
    scores = rng(4).normal(size=(3, 4))
    monkeypatch.setattr("metarl_envs.evaluation.statistics._BLOCK", block)
    values = stratified_bootstrap(scores, np.mean, repetitions=13, rng=rng(5))
    assert values.shape == (13,)
    assert len(np.unique(values)) == 13
    assert np.abs(values).max() <= np.abs(scores).max()


@given(matrices, arrays(np.float64, st.integers(1, 20), elements=numbers))
@quick
def test_performance_profile_falls_from_one_to_zero(scores, thresholds):
    profile = performance_profile(scores, np.sort(thresholds))
    assert np.all(np.diff(profile) <= 0)
    assert np.all((profile >= 0) & (profile <= 1))
    ends = performance_profile(scores, [scores.min() - 1, scores.max()])
    np.testing.assert_array_equal(ends, [1.0, 0.0])


def test_performance_profile_counts_scores_strictly_above():
    scores = np.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(performance_profile(scores, [-1, 0, 4.5, 9]), [1.0, 0.9, 0.5, 0.0])


@given(matrices, seeds)
@quick
def test_probability_of_improvement_is_antisymmetric(x, seed):
    y = rng(seed).permutation(x.ravel()).reshape(x.shape)[: 1 + seed % len(x)]
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)
    assert probability_of_improvement(x, x) == pytest.approx(0.5)
    assert probability_of_improvement(x + 1000, y) == 1.0


def test_probability_of_improvement_counts_ties_as_half():
    assert probability_of_improvement([[1.0], [3.0]], [[1.0], [2.0]]) == (0.5 + 0 + 1 + 1) / 4


@given(matrices, numbers, st.integers(1, 100))
@quick
def test_normalised_maps_the_references_to_zero_and_one(scores, low, gap):
    assert normalised(low, low, low + gap) == 0.0
    assert normalised(low + gap, low, low + gap) == 1.0
    result = normalised(scores, low, low + gap)
    np.testing.assert_allclose(low + result * gap, scores, atol=1e-9)


@given(matrices, matrices, arrays(np.float64, st.integers(1, 20), elements=numbers))
@quick
def test_point_estimates_equal_rliable(x, y, thresholds):
    tasks = min(x.shape[1], y.shape[1])
    x, y = x[:, :tasks], y[:, :tasks]
    assert iqm(x) == pytest.approx(rliable.metrics.aggregate_iqm(x), abs=1e-10)
    np.testing.assert_allclose(
        performance_profile(x, thresholds),
        rliable.library.score_distributions(x, thresholds),
        atol=1e-12,
    )
    assert probability_of_improvement(x, y) == pytest.approx(
        rliable.metrics.probability_of_improvement(x, y), abs=1e-12
    )


@pytest.mark.long
@pytest.mark.parametrize("over_tasks", [False, True])
def test_intervals_agree_with_rliable(monkeypatch, over_tasks):
    # rliable draws from NumPy's global generator; its draws are diverted to one of the test's own.
    monkeypatch.setattr(np.random, "choice", rng(6).choice)
    scores = rng(7).normal(size=(6, 10)) + np.linspace(0, 3, 10)
    _, theirs = rliable.library.get_interval_estimates(
        {"x": scores},
        lambda s: np.array([rliable.metrics.aggregate_iqm(s)]),
        task_bootstrap=over_tasks,
        reps=4000,
    )
    bootstrap = task_bootstrap_interval if over_tasks else stratified_bootstrap_interval
    ours = bootstrap(scores, iqm, 4000, rng=rng(8))
    # Monte-Carlo error of a 2.5 % quantile at 4000 draws: about 0.05 of the interval's width.
    np.testing.assert_allclose(ours, theirs["x"].ravel(), atol=0.05 * (ours.high - ours.low))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iqm([]), "at least one number"),
        (lambda: iqm([1.0, np.nan]), "must be finite"),
        (lambda: stratified_bootstrap(np.zeros(3), rng=rng()), r"matrix \(runs, tasks\)"),
        (lambda: stratified_bootstrap([[np.inf]], rng=rng()), "must be finite"),
        (lambda: stratified_bootstrap([[1.0]], repetitions=0, rng=rng()), "at least 1"),
        (lambda: stratified_bootstrap_interval([[1.0]], confidence=1.0, rng=rng()), "inside"),
        (lambda: task_bootstrap_interval(np.zeros((0, 3)), rng=rng()), "at least one number"),
        (lambda: performance_profile([[1.0]], [np.nan]), "thresholds must be finite"),
        (lambda: performance_profile([[1.0]], [[1.0]]), "one dimension"),
        (lambda: probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 4))), "same tasks"),
        (lambda: probability_of_improvement([[np.nan]], [[1.0]]), "x must be finite"),
        (lambda: normalised(1.0, 2.0, 2.0), "high must exceed low"),
        (lambda: normalised(np.nan, 0.0, 1.0), "score must be finite"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_intervals_have_two_thousand_resamples_by_default():
    functions = (stratified_bootstrap, stratified_bootstrap_interval, task_bootstrap_interval)
    assert {inspect.signature(f).parameters["repetitions"].default for f in functions} == {2000}
