"""Several training seeds of one agent as one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.protocol import Protocol
from metarl_envs.evaluation.report import Report


@dataclass(frozen=True, eq=False)
class Pooled:
    """Reports of independent training runs of one agent on the same tasks, as one result.

    The runs are the unit of its statistics: every number of a run is first averaged over the seeds of its
    trials. It has the properties of a `Report` that `summarise`, `adaptation_curve`, `plot_adaptation`
    and `compare` read; the first axis of its arrays is the training run (S) instead of the trial seed.

    Attributes:
        reports: one report of each training run.

    Raises:
        ValueError: If there are no reports, or their agents, families, protocols or tasks differ.
    """

    reports: tuple[Report, ...]

    #: What the first axis of the arrays is.
    unit: ClassVar[str] = "training seed"

    def __post_init__(self) -> None:
        if not self.reports:
            raise ValueError("a pooled result needs at least one report")
        first = self.reports[0]
        for other in self.reports[1:]:
            for what in ("agent", "family", "protocol", "tasks"):
                if getattr(first, what) != getattr(other, what):
                    raise ValueError(
                        f"reports of training seeds must have the same {what}, got "
                        f"{_short(getattr(first, what))} and {_short(getattr(other, what))}"
                    )

    @property
    def agent(self) -> str:
        """Name of the agent."""
        return self.reports[0].agent

    @property
    def family(self) -> str:
        """Id of the family."""
        return self.reports[0].family

    @property
    def protocol(self) -> Protocol:
        """The evaluation protocol."""
        return self.reports[0].protocol

    @property
    def tasks(self) -> tuple[dict[str, Any], ...]:
        """Each task as a dict, in the order of the arrays' second axis."""
        return self.reports[0].tasks

    @property
    def references(self) -> Mapping[str, NDArray[np.float64]]:
        """Scores of references; they are the same for every training run."""
        return self.reports[0].references

    @property
    def reward_terms(self) -> Mapping[str, NDArray[np.float64]]:
        """Contribution of each reward term to the return (S, T, K)."""
        return {name: self.metric(name) for name in self.reports[0].reward_terms}

    @property
    def metrics(self) -> Mapping[str, NDArray[np.float64]]:
        """Mean over the trial seeds (S, T, K) of every metric that all reports recorded, by name."""
        names = [n for n in self.reports[0].metrics if all(n in report.metrics for report in self.reports)]
        return {name: self.metric(name) for name in names}

    @property
    def diverged(self) -> NDArray[Any]:
        """Number of diverged episodes of each training run (S,)."""
        return np.array([report.diverged.sum() for report in self.reports])

    @property
    def scores(self) -> NDArray[np.float64]:
        """Mean return over the scored episodes and the trial seeds (S, T)."""
        return self.scored("return")

    def scored(self, metric: str) -> NDArray[np.float64]:
        """Mean of a metric over the scored episodes and the trial seeds (S, T)."""
        return np.array([report.scored(metric).mean(axis=0) for report in self.reports])

    def metric(self, name: str) -> NDArray[np.float64]:
        """Mean of a metric over the trial seeds (S, T, K).

        Args:
            name: As in `Report.metric`.
        """
        return np.array([report.metric(name).mean(axis=0, dtype=np.float64) for report in self.reports])


#: One report, or those of several training seeds.
Result = Report | Pooled


def pooled(reports: Sequence[Report]) -> Result:
    """One report as it is, several as the result of as many training seeds.

    Raises:
        ValueError: As in `Pooled`.
    """
    return reports[0] if len(reports) == 1 else Pooled(tuple(reports))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
