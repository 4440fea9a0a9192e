"""Learning curves of runs as a PNG."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metarl_agents.run.directory import RunError, read_entries
from metarl_agents.run.metrics import EVALUATION_GLOSSARY, glossary
from metarl_agents.run.monitor import FILE
from metarl_envs.evaluation import iqm, stratified_bootstrap_interval
from metarl_envs.files import atomic_path

_DASHES = ("solid", "dashed", "dotted", "dashdot")
#: Okabe and Ito's colours, which can be distinguished with all common types of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
#: Metrics that show the return after adaptation, most specific first. Runs log one of them.
ADAPTED = ("collect/return_after", "collect/return_last", "collect/return_posterior", "collect/return_mean")

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One metric of one agent: a line for each training seed.

    Attributes:
        label: agent, preset and what else tells it from the other curves.
        metric: name of the metric.
        seeds: points (environment steps, value) of each training seed, (P, 2).
    """

    label: str
    metric: str
    seeds: tuple[Points, ...]

    def summary(self) -> tuple[Points, Points, Points, Points]:
        """Environment steps (P,), the interquartile mean over seeds and the ends of its interval.

        The values of a seed between its points are interpolated, over the steps that all seeds have.
        """
        last = min(points[-1, 0] for points in self.seeds)
        first = max(points[0, 0] for points in self.seeds)
        longest = max(self.seeds, key=len)[:, 0]
        steps = longest[(longest >= first) & (longest <= last)]
        values = np.array([np.interp(steps, points[:, 0], points[:, 1]) for points in self.seeds])
        middle = np.array([iqm(column) for column in values.T])
        ends = np.array(
            [
                stratified_bootstrap_interval(column[:, None], rng=np.random.default_rng(0))
                for column in values.T
            ]
        ).reshape(-1, 2)
        return steps, middle, ends[:, 0], ends[:, 1]


def read_metrics(run_dir: Path, file: str = "metrics.jsonl") -> list[Mapping[str, Any]]:
    """Returns the records of a run, one per iteration, or per evaluation and protocol.

    Raises:
        RunError: there is none yet, or a line is damaged.
    """
    path = run_dir / file
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a record must be an object")
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} has a line that is not a record: {error}") from error
    if not records:
        raise RunError(f"{run_dir} has no data to plot yet: {file} is missing or empty")
    return records


def plot_learning(run_dirs: Sequence[Path], path: Path, *, metrics: Sequence[str] = ()) -> list[str]:
    """Draws metrics of several runs over environment steps.

    Runs that differ in their training seed only are one curve: a thin line for each seed, a thick one for
    their interquartile mean, and its 95 % bootstrap interval over the seeds as a band. One seed is one line.

    Args:
        run_dirs: directories of runs.
        path: the PNG to write, completely or not at all.
        metrics: columns of `metrics.jsonl` or, if they start with "evaluate/", of
            `evaluations.jsonl`; see `metarl_agents.run.metrics`. Lines of the second, third and fourth are
            dashed, dotted, and both. By default, the return after adaptation (`ADAPTED`).

    Returns:
        Remarks, e.g. on curves that have only one point.

    Raises:
        RunError: a directory is not a run, has no iteration yet, or does not log a metric.
        ValueError: there are more than four metrics.
    """
    if len(metrics) > len(_DASHES):
        raise ValueError(f"a figure has at most {len(_DASHES)} metrics, not {len(metrics)}")
    families = sorted({read_entries(run_dir)["env_id"] for run_dir in run_dirs})
    curves = [curve for metric in metrics or [""] for curve in _curves(run_dirs, metric)]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    shown = [*dict.fromkeys(curve.metric for curve in curves)] if metrics else [""]
    for curve in curves:
        colour = colours.setdefault(curve.label, COLOURS[len(colours) % len(COLOURS)])
        dashes = _DASHES[shown.index(curve.metric)] if metrics else "solid"
        name = curve.label if len(shown) == 1 else f"{curve.label}: {curve.metric}"
        _draw(axes, curve, colour, dashes, name)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(_in_words([curve.metric for curve in curves], bool(metrics)))
    axes.set_title(", ".join(families))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.supxlabel(_caption(curves), x=0.01, ha="left", fontsize=8, color="#8A8A8A")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return [
        f"{curve.label}: only one point of {curve.metric}; a curve needs a run of more iterations"
        for curve in curves
        if all(len(points) == 1 for points in curve.seeds)
    ]


def _draw(axes: Any, curve: Curve, colour: str, dashes: str, name: str) -> None:
    marker = "o" if all(len(points) == 1 for points in curve.seeds) else ""
    if len(curve.seeds) == 1:
        axes.plot(*curve.seeds[0].T, color=colour, linestyle=dashes, label=name, marker=marker)
        return
    for points in curve.seeds:
        axes.plot(*points.T, color=colour, linestyle=dashes, linewidth=0.7, alpha=0.6)
    steps, middle, low, high = curve.summary()
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, middle, color=colour, linestyle=dashes, linewidth=2, label=name, marker=marker)


def _caption(curves: Sequence[Curve]) -> str:
    counts = sorted({len(curve.seeds) for curve in curves})
    if counts == [1]:
        return "One training seed."
    seeds = " or ".join(map(str, counts))
    return (
        f"{seeds} training seeds, one thin line each. Thick: interquartile mean over the seeds;"
        " band: its 95% bootstrap interval."
    )


def _in_words(metrics: Sequence[str], chosen: bool) -> str:
    """The label of the vertical axis."""
    names = [*dict.fromkeys(metrics)]
    if not chosen and names != ["collect/return_mean"]:
        return "return of the adapted policy"
    known = glossary() | EVALUATION_GLOSSARY
    meanings = [known.get(name, name) for name in names]
    return "\n".join(textwrap.wrap("; ".join(meanings), 60)[:3])


def _curves(run_dirs: Sequence[Path], metric: str) -> list[Curve]:
    """The curves of one metric; "" is the first of `ADAPTED` that a run logs."""
    found: dict[tuple[str, str], list[Points]] = {}
    for run_dir, label in zip(run_dirs, _labels(run_dirs), strict=True):
        name = metric or _adapted(run_dir)
        for protocol, points in _lines(run_dir, name).items():
            key = (f"{label}, {protocol}" if protocol else label, name)
            found.setdefault(key, []).append(np.array(points, np.float64))
    return [Curve(label, name, tuple(seeds)) for (label, name), seeds in found.items()]


def _labels(run_dirs: Sequence[Path]) -> list[str]:
    """Agent and preset of each run, with overrides and family where these tell runs apart."""
    descriptions = [read_entries(run_dir) for run_dir in run_dirs]
    several = len({description["env_id"] for description in descriptions}) > 1
    variants: dict[str, set[str]] = {}
    parts = []
    for description in descriptions:
        label = f"{description['agent']} ({description['preset']})"
        # The number of steps is not a difference between curves.
        changes = sorted((k, v) for k, v in description["overrides"].items() if k != "total_env_steps")
        text = "".join(f" {key}={value}" for key, value in changes)
        variants.setdefault(label, set()).add(text)
        parts.append((label, text, f" {description['env_id']}" if several else ""))
    return [label + (text if len(variants[label]) > 1 else "") + family for label, text, family in parts]


def _adapted(run_dir: Path) -> str:
    logged = {name for record in read_metrics(run_dir) for name in record}
    return next(name for name in ADAPTED if name in logged)


def _lines(run_dir: Path, metric: str) -> dict[str, list[tuple[float, float]]]:
    """A metric's points (environment steps, value) by protocol, "" for what is logged in training."""
    records = read_metrics(run_dir, FILE if metric.startswith("evaluate/") else "metrics.jsonl")
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if metric in record:
            line = lines.setdefault(record.get("protocol", ""), [])
            line.append((record["env_steps"], record[metric]))
    if not lines:
        raise RunError(f"{run_dir} does not log {metric!r}")
    return lines
