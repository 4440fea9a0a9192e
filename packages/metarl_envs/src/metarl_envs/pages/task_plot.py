"""Plot of a family's task space: the tasks of every split, as a PNG. Needs `metarl-envs[plot]`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.families.distributions import Pair
from metarl_envs.families.family import Family
from metarl_envs.files import atomic_path

Array = NDArray[np.float64]

# Okabe and Ito's colours; shapes and sizes differ, so that coinciding tasks of two splits are both visible.
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": "#0072B2", "marker": "o", "s": 46, "alpha": 0.55, "linewidths": 0},
    "validation": {"color": "#CC79A7", "marker": "s", "s": 30, "alpha": 0.95, "linewidths": 0},
    "test": {"color": "#D55E00", "marker": "D", "s": 16, "alpha": 0.9, "linewidths": 0},
    "ood": {"color": "#009E73", "marker": "^", "s": 26, "alpha": 0.8, "linewidths": 0},
}
_INK, _FAINT = "#333333", "#8A8A8A"


def plot_tasks(family: Family, path: str | os.PathLike[str]) -> None:
    """Draws the tasks of every split: on a line, a circle, one or two planes, or all parameters side by side.

    Args:
        family: the family.
        path: PNG file to write, completely or not at all.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        # The object interface is used because pyplot keeps figures and selects a backend for the process.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install the extra with: pip install 'metarl-envs[plot]'"
        ) from error
    tables = {name: np.array([task.parameters for task in family.tasks(name)]) for name in family.splits}
    size = len(family.parameter_names)
    draw: Callable[..., None]
    if size == 1 and family.parameter_units == ("rad",):
        draw, inches = _on_circle, (4.8, 4.8)
    elif size == 1:
        draw, inches = _on_line, (4.8, 2.4)
    elif size == 2:
        draw, inches = _in_plane, (4.8, 4.8)
    elif size == 3:
        draw, inches = _in_space, (9.6, 4.8)
    elif isinstance(family.distribution, Pair):
        draw, inches = _as_arrows, (4.8, 4.8)
    else:
        draw, inches = _side_by_side, (9.6, 4.8)
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if size == 3 else 1, squeeze=False)[0]
    draw(panels if size == 3 else panels[0], family, tables)
    for axes in panels:
        for side in axes.spines:
            axes.spines[side].set_color(_FAINT)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.set_axisbelow(True)
    panels[0].set_title(family.id, loc="left", color=_INK, fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=4,
        columnspacing=1.0,
        handletextpad=0.2,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    with atomic_path(path) as temporary:
        # Without the writer's version, the file changes only if the picture changes.
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def _scatter(axes: Any, split: str, x: Array, y: Array) -> None:
    axes.scatter(x, y, label=f"{split} ({len(x)})", **_STYLES[split])


def _label(family: Family, index: int) -> str:
    name, unit = family.parameter_names[index].replace("_", " "), family.parameter_units[index]
    return name if unit == "1" else f"{name} ({unit})"


def _on_line(axes: Any, family: Family, tables: dict[str, Array]) -> None:
    for height, (name, rows) in enumerate(tables.items()):
        _scatter(axes, name, rows[:, 0], np.full(len(rows), -float(height)))
    axes.set_yticks(-np.arange(len(tables)), tables)
    axes.set_ylim(0.7 - len(tables), 0.3)
    axes.set_xlabel(_label(family, 0), color=_INK)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)


def _on_circle(axes: Any, family: Family, tables: dict[str, Array]) -> None:
    for height, (name, rows) in enumerate(tables.items()):
        radius = 1.0 + 0.15 * height  # a ring per split
        _scatter(axes, name, radius * np.cos(rows[:, 0]), radius * np.sin(rows[:, 0]))
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for text, place in ((_label(family, 0), (0.0, 0.0)), ("0", (0.85, 0.0)), ("π/2", (0.0, 0.85))):
        axes.annotate(text, place, ha="center", va="center", color=_FAINT, fontsize=10)


def _in_plane(axes: Any, family: Family, tables: dict[str, Array], x: int = 0, y: int = 1) -> None:
    for name, rows in tables.items():
        _scatter(axes, name, rows[:, x], rows[:, y])
    if family.parameter_units[x] == family.parameter_units[y] != "1":
        axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(_label(family, x), color=_INK)
    axes.set_ylabel(_label(family, y), color=_INK)
    axes.grid(color="#E6E6E6", linewidth=0.8)


def _in_space(panels: Any, family: Family, tables: dict[str, Array]) -> None:
    for axes, y in zip(panels, (1, 2), strict=True):
        _in_plane(axes, family, tables, 0, y)


def _as_arrows(axes: Any, family: Family, tables: dict[str, Array]) -> None:
    """Draws pairs of points as lines that end in a mark at the second point."""
    for name, rows in tables.items():
        colour = _STYLES[name]["color"]
        axes.plot(rows[:, [0, 2]].T, rows[:, [1, 3]].T, color=colour, linewidth=0.8, alpha=0.5, zorder=0)
    _in_plane(axes, family, tables, 2, 3)


def _side_by_side(axes: Any, family: Family, tables: dict[str, Array]) -> None:
    names = family.parameter_names
    index = np.arange(len(names))
    shift = 0.5 / len(tables)
    for number, (name, rows) in enumerate(tables.items()):
        x = np.broadcast_to(index + (number - (len(tables) - 1) / 2) * shift, rows.shape)
        axes.scatter(x, rows, label=f"{name} ({len(rows)})", **{**_STYLES[name], "s": 6})
    axes.set_yscale("log")  # parameters of families with many parameters are multipliers
    ticks = (0.3, 0.5, 1.0, 2.0, 3.0)
    axes.set_yticks(ticks, [f"×{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.axhline(1.0, color=_FAINT, linewidth=0.8, zorder=0)
    # Parameters form groups, named by their first word.
    groups = [name.split("_")[0] for name in names]
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=_FAINT, linewidth=0.8)
    ends = [*starts[1:], len(groups)]
    axes.set_xticks([(s + e - 1) / 2 for s, e in zip(starts, ends, strict=True)], [groups[s] for s in starts])
    axes.set_xlim(-1, len(names))
    axes.set_ylabel("multipliers of the model's parameters", color=_INK)
