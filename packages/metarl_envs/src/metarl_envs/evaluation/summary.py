"""Summary of a report, with intervals."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl_envs.evaluation.pooling import Pooled, Result, pooled
from metarl_envs.evaluation.report import Report
from metarl_envs.evaluation.statistics import (
    Statistic,
    iqm,
    normalised,
    running_mean,
    stratified_bootstrap_interval,
    task_bootstrap_interval,
)

# Metrics whose episodes are true or false. Their IQM would be 0 or 1 unless at least a quarter of them are
# true and a quarter false, so they are averaged.
_BOOLEAN = ("success_once", "success_at_end", "terminated", "diverged")


class Estimate(NamedTuple):
    """A statistic over runs and tasks with its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True, eq=False)
class AdaptationCurve:
    """A metric over the episodes of a trial; every array is (P points,).

    Attributes:
        metric: Name of the metric, as in `Report.metric`.
        statistic: "IQM", or "mean" for boolean metrics.
        first_episode: Number of the first episode that a point averages, counted from 1.
        last_episode: Number of the last one; it differs only if a protocol updates in batches.
        estimate: The statistic over runs and tasks.
        low: Lower end of its interval.
        high: Upper end.
        interval: Kind of bootstrap used for the interval.
    """

    metric: str
    statistic: str
    first_episode: NDArray[np.int64]
    last_episode: NDArray[np.int64]
    estimate: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    interval: str

    def points(self) -> list[Estimate]:
        """The points as a list of estimates."""
        columns = (self.estimate.tolist(), self.low.tolist(), self.high.tolist())
        return [Estimate(*numbers) for numbers in zip(*columns, strict=True)]


def interval_method(num_runs: int, num_tasks: int, unit: str = "run") -> str:
    """Description of the bootstrap that `estimate` uses for a matrix of scores.

    A single run cannot be resampled, so its tasks are resampled. The interval then covers the
    variation between tasks of the distribution, but not the variation between runs.

    Args:
        num_runs: Number of rows.
        num_tasks: Number of columns.
        unit: What a row is: "trial seed" for the trials of one trained agent, "training seed" for
            independent training runs.
    """
    if num_runs > 1:
        return f"bootstrap over {unit}s, stratified by task"
    if num_tasks > 1:
        return f"bootstrap over tasks (only one {unit})"
    return f"none (only one {unit} of one task)"


def sample_size(result: Result) -> str:
    """Numbers of tasks, training seeds and trial seeds, in words."""
    trials = len(result.protocol.seeds)
    trainings = len(result.reports) if isinstance(result, Pooled) else 1
    return ", ".join(
        (count(len(result.tasks), "task"), count(trainings, "training seed"), count(trials, "trial seed"))
    )


def count(number: int, noun: str) -> str:
    """A number with a noun, e.g. "1 task" or "2 tasks"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def estimate(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    *,
    repetitions: int = 2000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> Estimate:
    """A statistic of scores (R, T), with the interval that `interval_method` describes.

    Raises:
        ValueError: If the scores are empty or not finite, or an argument is out of its range.
    """
    matrix = np.asarray(scores, np.float64)
    bootstrap = stratified_bootstrap_interval if len(matrix) > 1 else task_bootstrap_interval
    interval = bootstrap(matrix, statistic, repetitions, confidence, rng=rng)
    return Estimate(float(statistic(matrix, axis=(0, 1))), *interval)


def adaptation_curve(
    report: Result,
    metric: str = "return",
    *,
    group: int | None = None,
    window: int = 1,
    repetitions: int = 2000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> AdaptationCurve:
    """A metric over the episodes of a trial.

    Args:
        report: The evaluation, or those of several training seeds (`Pooled`).
        metric: As in `Report.metric`.
        group: Consecutive episodes that are averaged, per run and task, into one point. By default
            the protocol's `episodes_per_update`, as those episodes are samples of one policy.
        window: Episodes whose mean, per run and task, is the value of an episode: it and those before it.
        repetitions: Number of resamples of the bootstrap.
        confidence: Probability mass of the intervals.
        rng: Generator that draws the resamples.

    Raises:
        ValueError: If the metric is unknown, or `group` or `window` is not positive.
    """
    values = running_mean(report.metric(metric), window)
    size = report.protocol.episodes_per_update if group is None else group
    if size < 1:
        raise ValueError(f"group must be at least 1 episode, got {size}")
    runs, tasks, episodes = values.shape
    binary = metric in _BOOLEAN
    starts = np.arange(0, episodes, size)
    points = [
        estimate(
            values[..., start : start + size].mean(axis=-1),
            np.mean if binary else iqm,
            repetitions=repetitions,
            confidence=confidence,
            # The same resamples for every point, so that equal scores have equal intervals.
            rng=copy.deepcopy(rng),
        )
        for start in starts
    ]
    middle, low, high = np.array(points).T
    return AdaptationCurve(
        metric=metric,
        statistic="mean" if binary else "IQM",
        first_episode=starts + 1,
        last_episode=np.minimum(starts + size, episodes),
        estimate=middle,
        low=low,
        high=high,
        interval=interval_method(runs, tasks, report.unit),
    )


@dataclass(frozen=True, eq=False)
class Summary:
    """Summary of a report.

    Attributes:
        title: Agent, family, split and protocol.
        size: Numbers of tasks, seeds and episodes, as text.
        returns: Adaptation curve of the return.
        success_once: Adaptation curve of success at any step.
        success_at_end: Adaptation curve of success at the last step; `None` if it was not recorded.
        score: IQM over runs and tasks of the score, the mean return of the scored episodes.
        score_without_bonus: The same for the return without its alive bonus; `None` if the family has
            none. Standing still can give most of a return.
        scored_success_once: Mean over runs, tasks and scored episodes.
        scored_success_at_end: Mean over runs, tasks and scored episodes; `None` if it was not recorded.
        references: IQM of the score of each reference.
        rise: Score minus the mean return of the trial's first batch of episodes (the protocol's
            `episodes_per_update`), paired by task, mean over runs and tasks, with a bootstrap
            interval over tasks; `None` if there are no episodes before the scored ones.
        gap_closed: Fraction of the gap between "zero" and "oracle" that the score closes, all three
            as IQM; `None` if a reference is missing or the oracle is not better.
        diverged: Number of episodes whose simulation diverged.
        confidence: Probability mass of the intervals.
        interval: Kind of bootstrap used for them.
    """

    title: str
    size: str
    returns: AdaptationCurve
    success_once: AdaptationCurve
    success_at_end: AdaptationCurve | None
    score: Estimate
    score_without_bonus: Estimate | None
    scored_success_once: Estimate
    scored_success_at_end: Estimate | None
    references: Mapping[str, float]
    rise: Estimate | None
    gap_closed: float | None
    diverged: int
    confidence: float
    interval: str

    def __str__(self) -> str:
        """A table for terminals."""
        rows = [("episode", "return (IQM)", "success once", "success at end")]
        points = self.returns.points()
        for first, last, value, once, at_end in zip(
            self.returns.first_episode,
            self.returns.last_episode,
            points,
            self.success_once.points(),
            self.success_at_end.points() if self.success_at_end else [None] * len(points),
            strict=True,
        ):
            label = f"{first}" if first == last else f"{first}-{last}"
            rows.append((label, f"{value:.4g}", f"{once:.2f}", _rate(at_end)))
        once, at_end = self.scored_success_once, self.scored_success_at_end
        rows.append(("score", f"{self.score:.4g}", f"{once:.2f}", _rate(at_end)))
        rows += [(name, f"{value:.4g}", "", "") for name, value in self.references.items()]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        notes = [f"{self.confidence:.0%} intervals: {self.interval}"]
        if self.score_without_bonus is not None:
            notes.append(f"score without the alive bonus: {self.score_without_bonus:.4g}")
        if self.rise is not None:
            first = self.returns.last_episode[0]
            label = "episode 1" if first == 1 else f"episodes 1-{first}"
            notes.append(f"rise from {label} to the score, mean over tasks: {self.rise:.4g}")
        if self.gap_closed is not None:
            notes.append(f"zero-to-oracle gap closed: {self.gap_closed:.0%}")
        if self.diverged:
            notes.append(f"diverged episodes: {self.diverged}")
        return "\n".join([self.title, self.size, "", *lines, "", *notes])


def _rate(value: Estimate | None) -> str:
    return "not recorded" if value is None else f"{value:.2f}"


def summarise(
    report: Result | Sequence[Report], *, repetitions: int = 2000, confidence: float = 0.95
) -> Summary:
    """Adaptation curve, score and references with bootstrap intervals; `str` gives a table.

    The resamples are drawn from a separate generator with a fixed seed, so the same report always
    gives the same intervals.

    Args:
        report: the report, or those of several training seeds of one agent.
        repetitions: number of resamples.
        confidence: probability mass of the intervals.

    Raises:
        ValueError: If reports of several training seeds do not belong together; see `Pooled`.
    """
    if not isinstance(report, Report | Pooled):
        report = pooled(report)
    result = report

    # A fixed generator for every number: the same report gives the same intervals, and the last point
    # of a curve has the interval of the score if both are from the same episodes.
    def interval(scores: ArrayLike, statistic: Statistic) -> Estimate:
        rng = np.random.default_rng(0)
        return estimate(scores, statistic, repetitions=repetitions, confidence=confidence, rng=rng)

    def curve(metric: str) -> AdaptationCurve:
        rng = np.random.default_rng(0)
        return adaptation_curve(result, metric, repetitions=repetitions, confidence=confidence, rng=rng)

    protocol, (runs, tasks) = report.protocol, report.scores.shape
    at_end = "success_at_end" in report.metrics
    score = interval(report.scores, iqm)
    without_bonus = None
    if "reward_alive" in report.reward_terms:
        without_bonus = interval(report.scores - report.scored("reward_alive"), iqm)
    references = {name: float(iqm(scores)) for name, scores in report.references.items()}
    zero, oracle = references.get("zero"), references.get("oracle")
    gap = None
    if zero is not None and oracle is not None and oracle > zero:
        gap = float(normalised(score.value, zero, oracle))
    rise = None
    if protocol.adaptation_episodes:
        pairs = report.scores - report.metric("return")[..., : protocol.episodes_per_update].mean(axis=-1)
        bounds = task_bootstrap_interval(
            pairs, np.mean, repetitions, confidence, rng=np.random.default_rng(0)
        )
        rise = Estimate(float(pairs.mean()), *bounds)
    return Summary(
        title=f"{report.agent} on {report.family} ({protocol.split}), "
        f"protocol {protocol.name or 'without a name'}",
        size=f"{sample_size(report)}; adaptation episodes: {protocol.adaptation_episodes}, "
        f"scored episodes: {protocol.scored_episodes}",
        returns=curve("return"),
        success_once=curve("success_once"),
        success_at_end=curve("success_at_end") if at_end else None,
        score=score,
        score_without_bonus=without_bonus,
        scored_success_once=interval(report.scored("success_once"), np.mean),
        scored_success_at_end=interval(report.scored("success_at_end"), np.mean) if at_end else None,
        references=references,
        rise=rise,
        gap_closed=gap,
        diverged=round(float(report.diverged.sum())),
        confidence=confidence,
        interval=interval_method(runs, tasks, report.unit),
    )
