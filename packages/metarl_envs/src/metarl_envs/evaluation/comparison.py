"""Paired comparison of two reports on the same tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metarl_envs.evaluation.statistics import Statistic, iqm, task_bootstrap_interval
from metarl_envs.evaluation.summary import Estimate

if TYPE_CHECKING:
    from metarl_envs.evaluation.report import Report


@dataclass(frozen=True)
class Comparison:
    """Difference between the scores of two reports on the same tasks and seeds.

    Attributes:
        names: Names of the two reports.
        scores: IQM of each.
        difference: Mean over tasks and seeds of first minus second, with a bootstrap interval over
            tasks.
        difference_iqm: Interquartile mean of the same differences.
        better: Fraction of tasks and seeds with a higher score of the first; a tie counts as one half.
        tasks: Number of tasks.
        runs: Number of seeds.
    """

    names: tuple[str, str]
    scores: tuple[float, float]
    difference: Estimate
    difference_iqm: Estimate
    better: float
    tasks: int
    runs: int

    def __str__(self) -> str:
        """A few lines for terminals."""
        first, second = self.names
        return (
            f"{first}: IQM {self.scores[0]:.4g}\n{second}: IQM {self.scores[1]:.4g}\n"
            f"difference, paired over {self.tasks} tasks and {self.runs} seeds: "
            f"mean {self.difference:.4g}, IQM {self.difference_iqm:.4g}\n"
            f"the first is better on {self.better:.0%} of the pairs (ties count as half)\n"
            "95% intervals: bootstrap over tasks"
        )


def compare(first: Report, second: Report, *, names: tuple[str, str] | None = None) -> Comparison:
    """Compares the scores of two reports task by task and seed by seed.

    With the same seed, a task has the same initial states, so most of the variation between tasks
    cancels.

    Args:
        first: A report.
        second: Another one.
        names: Names of the two; the agents' names by default.

    Raises:
        ValueError: If family, tasks or seeds are not the same.
    """
    for what, left, right in (
        ("family", first.family, second.family),
        ("tasks", first.tasks, second.tasks),
        ("seeds", first.protocol.seeds, second.protocol.seeds),
    ):
        if left != right:
            raise ValueError(f"only reports on the same {what} can be compared")
    pairs = first.scores - second.scores

    def interval(statistic: Statistic) -> Estimate:
        bounds = task_bootstrap_interval(pairs, statistic, rng=np.random.default_rng(0))
        return Estimate(float(statistic(pairs)), *bounds)

    runs, tasks = pairs.shape
    return Comparison(
        names=names or (first.agent, second.agent),
        scores=(float(iqm(first.scores)), float(iqm(second.scores))),
        difference=interval(np.mean),
        difference_iqm=interval(iqm),
        better=float(((pairs > 0) + 0.5 * (pairs == 0)).mean()),
        tasks=tasks,
        runs=runs,
    )
