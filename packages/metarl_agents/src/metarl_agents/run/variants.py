"""Results of several ways to adapt to the same tasks, as a table and as a record for a file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarl_envs import evaluation

#: Number of first episodes of a trial that are also compared.
EARLY = 10
_DIGITS = 4


def compare_variants(results: Mapping[str, evaluation.Result], episodes: int, window: int) -> str:
    """A table of variants: score, area under the curve, episodes until 80 % of the oracle, differences.

    Differences are those of the area under the curve from the first variant, paired over training runs and
    tasks.

    Args:
        results: results of the same training runs on the same tasks, by variant.
        episodes: number of episodes of a trial.
        window: episodes whose mean return is a point of a curve.
    """
    first = next(iter(results.values()))
    lines = [
        f"{'variant':16} {'score (mean)':>13}  {'area under the curve':24} {'80 % of the oracle':19} "
        f"area minus that of {first.agent}"
    ]
    for variant, result in results.items():
        until = "no oracle"
        if _has_oracle(result):
            reached = evaluation.episodes_until(result, 0.8, window=window)
            until = "not reached" if reached is None else f"after {reached} episodes"
        difference = ""
        if result is not first:
            difference = f"{evaluation.paired_difference(result, first, (1, episodes)):.3g}"
        area = f"{evaluation.curve_area(result):.3g}"
        lines.append(f"{variant:16} {result.scores.mean():13.4g}  {area:24} {until:19} {difference}".rstrip())
    return "\n".join(lines)


def variants_record(results: Mapping[str, evaluation.Result], episodes: int, window: int) -> dict[str, Any]:
    """What a study's file says about variants: scores, areas, curves, and the differences of all pairs.

    Args:
        results: results of the same training runs on the same tasks, by variant.
        episodes: number of episodes of a trial.
        window: episodes whose mean return is a point of a curve.
    """
    return {
        "window": window,
        "references": {
            name: float(scores.mean()) for name, scores in next(iter(results.values())).references.items()
        },
        "variants": {name: _numbers(result, window) for name, result in results.items()},
        "differences": [
            {
                "first": first,
                "second": second,
                "episodes": list(part),
                "first_minus_second": _rounded(
                    evaluation.paired_difference(results[first], results[second], part)
                ),
                "interval_over_tasks": _rounded(
                    evaluation.paired_difference(results[first], results[second], part, over_runs=False)[1:]
                ),
            }
            for part in dict.fromkeys(((1, episodes), (1, min(EARLY, episodes))))
            for first, second in itertools.combinations(results, 2)
        ],
    }


def _numbers(result: evaluation.Result, window: int) -> dict[str, Any]:
    """Numbers of one variant; areas (S, T) are those of each training run and task."""
    curve = evaluation.adaptation_curve(result, window=window, rng=np.random.default_rng(0))
    return {
        "score_mean": float(result.scores.mean()),
        "success": float(result.scored("success_once").mean()),
        "area": list(evaluation.curve_area(result)),
        "episodes_until_80_percent": (
            evaluation.episodes_until(result, 0.8, window=window) if _has_oracle(result) else None
        ),
        "areas": [_rounded(row) for row in evaluation.curve_means(result)],
        "curve": {
            "statistic": curve.statistic,
            "interval": curve.interval,
            "estimate": _rounded(curve.estimate),
            "low": _rounded(curve.low),
            "high": _rounded(curve.high),
        },
    }


def _has_oracle(result: evaluation.Result) -> bool:
    return {"zero", "oracle"} <= set(result.references)


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
