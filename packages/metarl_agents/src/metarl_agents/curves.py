"""Learning curves of runs as a PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metarl_agents.run import RunError, read_description
from metarl_envs.files import atomic_path

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def read_metrics(run_dir: Path) -> list[Mapping[str, float]]:
    """Returns the records of a run's `metrics.jsonl`, one per iteration.

    Raises:
        RunError: there is none yet.
    """
    path = run_dir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not records:
        raise RunError(f"{run_dir} has no finished iteration to plot")
    return records


def plot_learning(run_dirs: Sequence[Path], path: Path, *, metric: str) -> None:
    """Draws a metric of several runs over environment steps, one line per run.

    Args:
        run_dirs: directories of runs.
        path: the PNG to write, whole or not at all.
        metric: a column of `metrics.jsonl`, see `metarl_agents.metrics.GLOSSARY`.

    Raises:
        RunError: a directory is not a run, has no iteration yet, or does not log the metric.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    families = []
    for run_dir in run_dirs:
        description, _ = read_description(run_dir)
        label = f"{description['agent']} ({description['preset']})"
        first = label not in colours
        colour = colours.setdefault(label, _COLOURS[len(colours) % len(_COLOURS)])
        families.append(description["env_id"])
        points = [(r["env_steps"], r[metric]) for r in read_metrics(run_dir) if metric in r]
        if not points:
            raise RunError(f"{run_dir} does not log {metric!r}")
        axes.plot(*zip(*points, strict=True), color=colour, label=label if first else None)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(metric)
    axes.set_title(", ".join(sorted(set(families))))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
