"""Learning curves of runs as a PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metarl_agents.run.directory import RunError, read_description
from metarl_agents.run.monitor import FILE
from metarl_envs.files import atomic_path

_DASHES = ("solid", "dashed", "dotted", "dashdot")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def read_metrics(run_dir: Path, file: str = "metrics.jsonl") -> list[Mapping[str, Any]]:
    """Returns the records of a run, one per iteration, or per evaluation and protocol.

    Raises:
        RunError: there is none yet.
    """
    path = run_dir / file
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not records:
        raise RunError(f"{run_dir} has no data to plot yet: {file} is missing or empty")
    return records


def plot_learning(run_dirs: Sequence[Path], path: Path, *, metrics: Sequence[str]) -> None:
    """Draws metrics of several runs over environment steps, one line per run and metric.

    Args:
        run_dirs: directories of runs.
        path: the PNG to write, completely or not at all.
        metrics: columns of `metrics.jsonl` or, if they start with "evaluate/", of
            `evaluations.jsonl`; see `metarl_agents.run.metrics`. Lines of the second, third and fourth are
            dashed, dotted, and both.

    Raises:
        RunError: a directory is not a run, has no iteration yet, or does not log a metric.
        ValueError: there are more than four metrics.
    """
    if len(metrics) > len(_DASHES):
        raise ValueError(f"a figure has at most {len(_DASHES)} metrics, not {len(metrics)}")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    named: dict[str, Line2D] = {}
    families = []
    for run_dir in run_dirs:
        description, _ = read_description(run_dir)
        label = f"{description['agent']} ({description['preset']})"
        families.append(description["env_id"])
        for metric, dashes in zip(metrics, _DASHES, strict=False):
            for protocol, points in _lines(run_dir, metric).items():
                name = f"{label}, {protocol}" if protocol else label
                colour = colours.setdefault(name, _COLOURS[len(colours) % len(_COLOURS)])
                if len(metrics) > 1:
                    name = f"{name}: {metric}"
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes)
                named.setdefault(name, axes.lines[-1])
    axes.set_xlabel("environment steps")
    axes.set_ylabel(", ".join(metrics))
    axes.set_title(", ".join(sorted(set(families))))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(named.values(), named, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


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
