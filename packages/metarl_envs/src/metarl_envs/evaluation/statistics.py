"""Statistics and intervals for few runs and many tasks.

The estimators are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (NeurIPS 2021): scores are a matrix with a row per run and a column per task.
No function uses a global generator: the caller passes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A reduction in NumPy's style, called as `statistic(samples, axis=(1, 2))` on (B, R, T) resamples.
Statistic = Callable[..., Any]

# Resamples are drawn in blocks of at most this many numbers (16 MiB), so that memory does not grow
# with the number of repetitions.
_BLOCK = 2**21


class Interval(NamedTuple):
    """A confidence interval, in the units of the scores."""

    low: float
    high: float


def iqm(scores: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Interquartile mean: the mean without the lowest and the highest quarter of the numbers.

    With n numbers, ``floor(n / 4)`` are dropped at each end (Agarwal et al. 2021, section 4.3), so
    up to three numbers are averaged without dropping any.

    Args:
        scores: Finite numbers of any shape.
        axis: Axes to reduce; all of them by default.

    Returns:
        A float, or an array over the remaining axes.

    Raises:
        ValueError: If there are no numbers or a number is not finite.
    """
    values = _finite(scores, "scores")
    axes = tuple(range(values.ndim)) if axis is None else tuple(np.atleast_1d(axis).tolist())
    rows = np.moveaxis(values, axes, range(-len(axes), 0))
    rows = rows.reshape(*rows.shape[: values.ndim - len(axes)], -1)
    count = rows.shape[-1]
    cut = count // 4
    result = np.sort(rows, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return float(result) if result.ndim == 0 else result


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    *,
    repetitions: int = 2000,
    rng: np.random.Generator,
    over_tasks: bool = False,
) -> NDArray[np.float64]:
    """Bootstrap distribution of a statistic, stratified by task.

    Every resample has the shape of `scores`: in each task's column the runs are drawn with
    replacement, independently of the other columns (Agarwal et al. 2021, section 4.1). It
    estimates the variation between runs on the *same* tasks.

    Args:
        scores: Finite scores (R runs, T tasks).
        statistic: Reduction called as ``statistic(samples, axis=(1, 2))`` on samples (B, R, T);
            e.g. `iqm`, `numpy.mean` or `numpy.median`.
        repetitions: Number of resamples B.
        rng: Generator that draws them.
        over_tasks: Whether to draw the columns with replacement too, which estimates the variation
            with other tasks of the same distribution.

    Returns:
        The statistic of each resample (B,).

    Raises:
        ValueError: If `scores` is not a finite, non-empty matrix or `repetitions` is not positive.
    """
    matrix = _matrix(scores, "scores")
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}")
    runs, tasks = matrix.shape
    values = np.empty(repetitions)
    block = max(1, _BLOCK // matrix.size)
    for start in range(0, repetitions, block):
        count = min(block, repetitions - start)
        run_index = rng.integers(runs, size=(count, runs, tasks))
        task_index = (
            rng.integers(tasks, size=(count, 1, tasks)) if over_tasks else np.arange(tasks)[None, None]
        )
        values[start : start + count] = statistic(matrix[run_index, task_index], axis=(1, 2))
    return values


def stratified_bootstrap_interval(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    repetitions: int = 2000,
    confidence: float = 0.95,
    *,
    rng: np.random.Generator,
) -> Interval:
    """Percentile interval of a statistic for other runs on the same tasks.

    With one run there is nothing to resample, and the interval is the point estimate; use
    `task_bootstrap_interval` in this case.

    Args:
        scores: Finite scores (R runs, T tasks).
        statistic: As in `stratified_bootstrap`.
        repetitions: Number of resamples.
        confidence: Probability mass of the interval, inside (0, 1).
        rng: Generator that draws the resamples.

    Returns:
        The interval, in the units of the scores (Agarwal et al. 2021, section 4.1).

    Raises:
        ValueError: As in `stratified_bootstrap`, or if `confidence` is outside (0, 1).
    """
    values = stratified_bootstrap(scores, statistic, repetitions=repetitions, rng=rng)
    return _percentile_interval(values, confidence)


def task_bootstrap_interval(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    repetitions: int = 2000,
    confidence: float = 0.95,
    *,
    rng: np.random.Generator,
) -> Interval:
    """Percentile interval of a statistic for other tasks of the same distribution.

    Columns are drawn with replacement, and so are the runs within each drawn column. It is wider than
    `stratified_bootstrap_interval` if attainable scores differ between tasks, and it is the only
    bootstrap that is possible with one run. With one run of one task, it is a point, too.

    Args:
        scores: Finite scores (R runs, T tasks).
        statistic: As in `stratified_bootstrap`.
        repetitions: Number of resamples.
        confidence: Probability mass of the interval, inside (0, 1).
        rng: Generator that draws the resamples.

    Returns:
        The interval, in the units of the scores.

    Raises:
        ValueError: As in `stratified_bootstrap`, or if `confidence` is outside (0, 1).
    """
    values = stratified_bootstrap(scores, statistic, repetitions=repetitions, rng=rng, over_tasks=True)
    return _percentile_interval(values, confidence)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Fraction of all runs and tasks that score above each threshold.

    Args:
        scores: Finite scores (R runs, T tasks).
        thresholds: Finite thresholds (K,), in the units of the scores.

    Returns:
        Fractions (K,) of scores strictly above the threshold (the score distribution of Agarwal
        et al. 2021, section 4.2).

    Raises:
        ValueError: If an argument is empty, not finite or of another number of dimensions.
    """
    ordered = np.sort(_matrix(scores, "scores"), axis=None)
    limits = _finite(thresholds, "thresholds")
    if limits.ndim != 1:
        raise ValueError(f"thresholds must have one dimension, got shape {limits.shape}")
    above = ordered.size - np.searchsorted(ordered, limits, side="right")
    return np.asarray(above / ordered.size, dtype=np.float64)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Probability that a run of X is better than a run of Y on a random task.

    Args:
        x: Finite scores of X (Rx runs, T tasks).
        y: Finite scores of Y (Ry runs, T tasks), on the same tasks in the same order.

    Returns:
        Mean over tasks of ``P(X > Y) + P(X = Y) / 2`` over all pairs of runs: the Mann-Whitney U
        statistic per pair (Agarwal et al. 2021, section 4.3).

    Raises:
        ValueError: If a matrix is empty or not finite, or the numbers of tasks differ.
    """
    left, right = _matrix(x, "x"), _matrix(y, "y")
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"x and y must have the same tasks as columns, got {left.shape[1]} and {right.shape[1]}"
        )
    above = (left[:, None] > right[None]).mean(axis=(0, 1))
    equal = (left[:, None] == right[None]).mean(axis=(0, 1))
    return float((above + 0.5 * equal).mean())


def normalised(score: ArrayLike, low: ArrayLike, high: ArrayLike) -> Any:
    """Fraction of the gap between two references that a score closes.

    Args:
        score: Scores of any shape.
        low: Score that counts as 0, e.g. the zero-action agent's; broadcasts against `score`.
        high: Score that counts as 1, e.g. the oracle's; broadcasts against `score`.

    Returns:
        ``(score - low) / (high - low)``: below 0 is worse than `low`, above 1 better than `high`.

    Raises:
        ValueError: If a number is not finite or `high` does not exceed `low` everywhere.
    """
    bottom, top = _finite(low, "low"), _finite(high, "high")
    if not np.all(top > bottom):
        raise ValueError("high must exceed low everywhere")
    result = (_finite(score, "score") - bottom) / (top - bottom)
    return float(result) if result.ndim == 0 else result


def running_mean(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Mean of each entry and the `window - 1` before it along the last axis; of fewer at the beginning.

    Raises:
        ValueError: If the window is not positive.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    array = np.asarray(values, np.float64)
    if window == 1:
        return array
    ends = range(1, array.shape[-1] + 1)
    return np.stack([array[..., max(0, end - window) : end].mean(axis=-1) for end in ends], axis=-1)


def _percentile_interval(values: NDArray[np.float64], confidence: float) -> Interval:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie inside (0, 1), got {confidence}")
    tail = 0.5 * (1.0 - confidence)
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} must contain at least one number")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = _finite(values, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix (runs, tasks), got shape {array.shape}")
    return array
