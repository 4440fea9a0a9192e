"""Adaptation curves as a PNG. Needs the extra ``metarl-envs[plot]``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.pooling import Pooled, Result
from metarl_envs.evaluation.report import Report
from metarl_envs.evaluation.statistics import iqm
from metarl_envs.evaluation.summary import AdaptationCurve, adaptation_curve, sample_size
from metarl_envs.files import atomic_path

# Okabe and Ito's colours, which can be distinguished with all common types of colour blindness.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK, _FAINT = "#333333", "#8A8A8A"
_LABELS = {
    "return": "return of an episode",
    "length": "episode length (steps)",
    "success_once": "success rate (at any step)",
    "success_at_end": "success rate (at the end)",
}
#: Largest number of results whose names are inside the axes, and whose training seeds have lines.
_FEW = 4
_MAX_MARKERS = 25
# Height of a line of text as a fraction of the height of the plot.
_LABEL_HEIGHT = 0.045


def plot_adaptation(
    reports: Result | Sequence[Result],
    path: str | os.PathLike[str],
    *,
    metric: str = "return",
    title: str | None = None,
    window: int = 1,
    confidence: float = 0.95,
) -> None:
    """Draw the adaptation curves of one or more reports with intervals and references.

    The line shows the IQM over seeds and tasks (the mean for success), the shaded area its bootstrap
    interval; the caption says what it is over. If a result has several training seeds, each has a thin
    line, unless there are more than four results. Filled markers are scored episodes, hollow ones adaptation
    episodes. Dashed lines are the scores of the references, drawn only for the return.

    Args:
        reports: Reports on one split of one family, of one agent each. Those of several training
            seeds of one agent are one entry, a `Pooled`.
        path: PNG file to write, completely or not at all.
        metric: As in `Report.metric`.
        title: Heading; family and split by default.
        window: Episodes whose mean is drawn at an episode: it and those before it.
        confidence: Probability mass of the intervals.

    Raises:
        ValueError: If there is no report, or they are of different families or splits.
        ImportError: If matplotlib is not installed.
    """
    reports = [reports] if isinstance(reports, Report | Pooled) else list(reports)
    origins = {(report.family, report.protocol.split) for report in reports}
    if len(origins) != 1:
        raise ValueError(
            f"reports in one plot must be of one family and split, got {sorted(origins) or 'none'}"
        )
    try:
        # The object interface is used because pyplot keeps figures and selects a backend for the process.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install the extra with: pip install 'metarl-envs[plot]'"
        ) from error

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rng = np.random.default_rng(0)
    curves = [adaptation_curve(r, metric, window=window, confidence=confidence, rng=rng) for r in reports]
    for number, (report, curve) in enumerate(zip(reports, curves, strict=True)):
        _draw_curve(axes, report, curve, number, window, len(reports))
    if metric == "return":
        _draw_references(axes, reports)
    _dress(figure, axes, reports, curves, metric, title, window, confidence)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def _drawn_seeds(report: Result, count: int) -> Sequence[Report]:
    """Training seeds with a line of their own, if there are not too many results for that."""
    return report.reports if isinstance(report, Pooled) and count <= _FEW else ()


def _draw_curve(
    axes: Any, report: Result, curve: AdaptationCurve, number: int, window: int, count: int
) -> None:
    x = _seen(curve)
    scored = np.array([not report.protocol.adapting(first - 1) for first in curve.first_episode])
    # Between scored batches, those of adaptation are explored with noise, so no line goes through them.
    lined = scored | (report.protocol.scored_between == 0)
    colour = _COLOURS[number % len(_COLOURS)]
    # When there are more curves than colours, the second round of them is dashed.
    style = "-" if number < len(_COLOURS) else (0, (4, 2))
    axes.fill_between(x[lined], curve.low[lined], curve.high[lined], color=colour, alpha=0.18, linewidth=0)
    if len(x) == 1:
        # A single point has no area to shade.
        axes.errorbar(
            x,
            curve.estimate,
            [curve.estimate - curve.low, curve.high - curve.estimate],
            color=colour,
            capsize=4,
            linewidth=1.5,
        )
    for seed in _drawn_seeds(report, count):
        one = adaptation_curve(seed, curve.metric, window=window, repetitions=1, rng=np.random.default_rng(0))
        axes.plot(x[lined], one.estimate[lined], color=colour, linewidth=0.7, alpha=0.6, zorder=2)
    axes.plot(
        x[lined],
        curve.estimate[lined],
        color=colour,
        linestyle=style,
        linewidth=2,
        label=report.agent,
        zorder=3 + number,
    )
    shown = scored | (len(x) <= _MAX_MARKERS)
    for mask, face in ((shown & ~scored, "white"), (scored, colour)):
        axes.plot(
            x[mask],
            curve.estimate[mask],
            "o",
            markersize=6,
            markerfacecolor=face,
            markeredgecolor=colour,
            markeredgewidth=1.5,
            zorder=3.5 + number,
        )


def _draw_references(axes: Any, reports: Sequence[Result]) -> None:
    references = {name: s for report in reversed(reports) for name, s in report.references.items()}
    levels = {name: iqm(scores) for name, scores in references.items()}
    for level in levels.values():
        axes.axhline(level, color=_FAINT, linestyle=(0, (5, 4)), linewidth=1.2, zorder=1)
    # Lines that are too close for separate labels share one, with the name of the upper line first.
    bottom, top = axes.get_ylim()
    labels: list[tuple[float, str]] = []
    for name in sorted(levels, key=lambda name: -levels[name]):
        if labels and labels[-1][0] - levels[name] < _LABEL_HEIGHT * (top - bottom):
            labels[-1] = (labels[-1][0], f"{labels[-1][1]},\n{name}")
        else:
            labels.append((levels[name], name))
    for level, text in labels:
        axes.annotate(
            text,
            (1.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=_FAINT,
            fontsize=9,
        )


def _dress(
    figure: Any,
    axes: Any,
    reports: Sequence[Result],
    curves: Sequence[AdaptationCurve],
    metric: str,
    title: str | None,
    window: int,
    confidence: float,
) -> None:
    first = reports[0]
    axes.set_title(title or f"{first.family} · {first.protocol.split}", loc="left", color=_INK, fontsize=12)
    axes.set_xlabel("episodes of the task seen before", color=_INK)
    smoothed = "" if window == 1 else f", mean of {window} episodes"
    axes.set_ylabel(f"{_LABELS.get(metric, metric)}, {curves[0].statistic}{smoothed}", color=_INK)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    if all(len(curve.estimate) == 1 for curve in curves):
        axes.set_xlim(-0.6, 0.6)  # around the single point
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9)
    handles = [handle for handle in axes.get_lines() if not handle.get_label().startswith("_")]
    look = {"handles": handles, "frameon": False, "fontsize": 9, "labelcolor": _INK}
    if len(reports) > _FEW:
        # Many names would cover the curves.
        figure.legend(**look, loc="outside upper center", ncols=3)
    else:
        axes.legend(**look)
    sizes = " / ".join(dict.fromkeys(sample_size(report) for report in reports))
    methods = " / ".join(dict.fromkeys(curve.interval for curve in curves))
    seeds = " Thin lines: training seeds." if any(_drawn_seeds(r, len(reports)) for r in reports) else ""
    figure.supxlabel(
        f"{sizes}. Filled markers: scored.{seeds}\nBand: {confidence:.0%} interval, {methods}.",
        x=0.01,
        ha="left",
        color=_FAINT,
        fontsize=8,
    )


def _seen(curve: AdaptationCurve) -> NDArray[np.int64]:
    # For a batch of episodes with one policy, the x value is the number of episodes before the batch.
    return curve.first_episode - 1
