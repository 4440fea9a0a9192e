"""Comparison of two results on the same tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.pooling import Pooled, Result
from metarl_envs.evaluation.speed import curve_means
from metarl_envs.evaluation.statistics import (
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
    task_bootstrap_interval,
)
from metarl_envs.evaluation.summary import Estimate, count

_REPETITIONS = 2000


@dataclass(frozen=True)
class Comparison:
    """Difference between the scores of two results on the same tasks.

    Attributes:
        names: Names of the two results.
        scores: IQM of each.
        difference: Mean of first minus second, with a 95 % bootstrap interval.
        difference_iqm: The same for the interquartile mean: of the paired differences, or, if there are
            several training seeds on both sides, the difference of the two interquartile means.
        better: Probability that the first has the higher score on a task; a tie counts as one half.
        pairing: What was paired with what, in words.
        interval: What the intervals are over, in words.
    """

    names: tuple[str, str]
    scores: tuple[float, float]
    difference: Estimate
    difference_iqm: Estimate
    better: float
    pairing: str
    interval: str

    @property
    def separable(self) -> bool:
        """Whether neither interval contains zero."""
        return all(not low <= 0.0 <= high for _, low, high in (self.difference, self.difference_iqm))

    def __str__(self) -> str:
        """A few lines for terminals."""
        first, second = self.names
        higher = first if self.difference_iqm.value > 0 else second
        verdict = f"{higher} has the higher score" if self.separable else "not separable"
        return (
            f"first:  {first}: IQM {self.scores[0]:.4g}\nsecond: {second}: IQM {self.scores[1]:.4g}\n"
            f"first minus second, {self.pairing}: mean {self.difference:.4g}, IQM {self.difference_iqm:.4g}\n"
            f"the first is better with probability {self.better:.2f} (ties count as half)\n"
            f"95% intervals: {self.interval}\n"
            f"{verdict}" + ("" if self.separable else ": an interval includes zero")
        )


def compare(
    first: Result,
    second: Result,
    *,
    names: tuple[str, str] | None = None,
    episodes: tuple[int, int] | None = None,
) -> Comparison:
    """Compares the scores of two results task by task, or their returns along the trials.

    Two reports of one training run each are paired by task and trial seed: with the same seed, a task
    has the same initial states, so most of the variation between tasks cancels. The interval is then over
    tasks. If one side has several training seeds, scores are first averaged over trial seeds, and pairs are
    formed by task. If both have several, the interval is over training seeds, which are resampled
    independently on both sides and in each task.

    Args:
        first: A report, or a `Pooled` of several training seeds.
        second: Another one.
        names: Names of the two; the agents' names by default.
        episodes: First and last episode, from 1 on, whose mean return is compared instead of the score. From
            the first to the last one of the trial, it is the area under the adaptation curve per episode.

    Raises:
        ValueError: If family, tasks or trial seeds are not the same, or the trials are shorter.
    """
    _check_same(first, second)
    tasks, trials = len(first.tasks), len(first.protocol.seeds)
    sides = (first, second)

    def scores(side: Result) -> NDArray[np.float64]:
        return side.scores if episodes is None else curve_means(side, episodes)

    if not any(isinstance(side, Pooled) for side in sides):
        pairs = scores(first) - scores(second)
        better = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        estimates = _over_tasks(pairs)
        pairing = f"paired over {count(tasks, 'task')} and {count(trials, 'trial seed')}"
        interval = "bootstrap over tasks (one training seed on each side)"
    else:
        a, b = (
            scores(side) if isinstance(side, Pooled) else scores(side).mean(axis=0, keepdims=True)
            for side in sides
        )
        better = probability_of_improvement(a, b)
        pairing = f"paired over {count(tasks, 'task')} ({len(a)} and {len(b)} training seeds)"
        if min(len(a), len(b)) > 1:
            estimates = (_over_seeds(a, b, np.mean), _over_seeds(a, b, iqm))
            interval = "bootstrap over training seeds of both sides, stratified by task"
        else:
            estimates = _over_tasks((a.mean(axis=0) - b.mean(axis=0))[None])
            interval = "bootstrap over tasks (one side has one training seed)"
    return Comparison(
        names=names or (first.agent, second.agent),
        scores=(float(iqm(scores(first))), float(iqm(scores(second)))),
        difference=estimates[0],
        difference_iqm=estimates[1],
        better=better,
        pairing=pairing,
        interval=interval,
    )


def paired_difference(
    first: Result, second: Result, episodes: tuple[int, int] | None = None, *, over_runs: bool = True
) -> Estimate:
    """Mean difference of the returns of two methods that were applied to the same training runs.

    Row i of both results must belong to the same training run, e.g. two ways to adapt the same pre-trained
    agents. Differences are taken for each run and task. For the interval, tasks are resampled as a whole, and
    so are runs, if wanted: it then covers other pre-trainings and other tasks.

    Args:
        first: A report, or a `Pooled` of several training seeds.
        second: Another one.
        episodes: First and last episode, from 1 on; all episodes of the trial by default.
        over_runs: Whether the interval is over runs, too.

    Raises:
        ValueError: If family, tasks, trial seeds or number of runs are not the same, or the trials are
            shorter.
    """
    _check_same(first, second)
    sides = [curve_means(side, episodes) for side in (first, second)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"paired results need the same training runs, got {len(sides[0])} and {len(sides[1])} of them"
        )
    pairs = sides[0] - sides[1]
    if not over_runs:
        pairs = pairs.mean(axis=0, keepdims=True)
    runs, tasks = pairs.shape
    rng = np.random.default_rng(0)
    run_index = rng.integers(runs, size=(_REPETITIONS, runs, 1))
    task_index = rng.integers(tasks, size=(_REPETITIONS, 1, tasks))
    low, high = np.quantile(pairs[run_index, task_index].mean(axis=(1, 2)), [0.025, 0.975])
    return Estimate(float(pairs.mean()), float(low), float(high))


def _check_same(first: Result, second: Result) -> None:
    """Refuses results whose families, tasks or seeds differ."""
    pairs: list[tuple[str, Any, Any]] = [
        ("family", first.family, second.family),
        ("tasks", first.tasks, second.tasks),
        ("seeds", first.protocol.seeds, second.protocol.seeds),
    ]
    for what, left, right in pairs:
        if left != right:
            raise ValueError(f"only results on the same {what} can be compared")


def _over_tasks(pairs: NDArray[np.float64]) -> tuple[Estimate, Estimate]:
    """Mean and IQM of paired differences (R, T), with intervals over tasks."""

    def interval(statistic: Callable[..., Any]) -> Estimate:
        bounds = task_bootstrap_interval(pairs, statistic, _REPETITIONS, rng=np.random.default_rng(0))
        return Estimate(float(statistic(pairs)), *bounds)

    return interval(np.mean), interval(iqm)


def _over_seeds(a: NDArray[np.float64], b: NDArray[np.float64], statistic: Callable[..., Any]) -> Estimate:
    """Difference of a statistic of (Sa, T) and (Sb, T), with an interval over the seeds of both."""
    rng = np.random.default_rng(0)
    first, second = (stratified_bootstrap(s, statistic, repetitions=_REPETITIONS, rng=rng) for s in (a, b))
    low, high = np.quantile(first - second, [0.025, 0.975])
    return Estimate(float(statistic(a) - statistic(b)), float(low), float(high))
