"""The table of a sweep, for publication: Markdown, CSV, JSON and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metarl_agents.run.curves import COLOURS
from metarl_agents.sweep.matrix import Cell, Papers
from metarl_agents.sweep.tables import commands, family_table, groups, table
from metarl_envs.evaluation import iqm, performance_profile, stratified_bootstrap_interval
from metarl_envs.files import atomic_path, readable_json

_GREY = "#8A8A8A"


@dataclass(frozen=True)
class Aggregate:
    """Shares of the gap between zero action and the oracle, over the families of an agent.

    Attributes:
        agent: name of the agent, with its preset.
        paper: whose families; "" for all.
        families: ids of the families.
        shares: share of each training seed and family (S, F).
    """

    agent: str
    paper: str
    families: tuple[str, ...]
    shares: NDArray[np.float64]

    @property
    def value(self) -> float:
        """Interquartile mean of all shares."""
        return float(iqm(self.shares))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval over training seeds, stratified by family; None for one seed."""
        if len(self.shares) < 2:
            return None
        return tuple(stratified_bootstrap_interval(self.shares, rng=np.random.default_rng(0)))  # type: ignore[return-value]


def aggregates(cells: Sequence[Cell], papers: Papers) -> list[Aggregate]:
    """The aggregates of every agent and preset, over all families and over those of each paper.

    If an agent has several evaluations on a family, the first counts. Families with more training seeds than
    others count with the first ones, so that every seed has every family.
    """
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for cell in cells:
        key = cell.key
        if (shares := cell.shares) is not None and not key.changes:
            found.setdefault(f"{key.agent} ({key.preset})", {}).setdefault(key.family, shares)
    result = []
    for paper, chosen in [("", None), *papers.families.items()]:
        for agent, by_family in found.items():
            families = tuple(f for f in by_family if chosen is None or f in chosen)
            if families:
                seeds = min(len(by_family[f]) for f in families)
                shares = np.array([by_family[f][:seeds] for f in families]).T
                result.append(Aggregate(agent, paper, families, shares))
    return result


def rows(cells: Sequence[Cell], papers: Papers) -> Iterator[dict[str, Any]]:
    """One record per cell, with plain values."""
    for cell in cells:
        summary = cell.summary
        seconds = [run.core_seconds for run in cell.runs if run.core_seconds is not None]
        shares, references = cell.shares, cell.references
        published = [f for f in papers.figures if (f.agent, f.family) == (cell.key.agent, cell.key.family)]
        yield {
            **cell.key._asdict(),
            "iqm": summary.score.value,
            "low": summary.score.low,
            "high": summary.score.high,
            "interval": summary.interval,
            "interval_over": cell.interval_over,
            "size": summary.size,
            "seeds": [run.seed for run in cell.runs],
            "seed_scores": cell.seed_scores,
            "first": None if summary.rise is None else float(summary.returns.estimate[0]),
            "rise": None if summary.rise is None else list(summary.rise),
            "success": summary.scored_success_once.value,
            "zero": references.get("zero"),
            "random": references.get("random"),
            "oracle": cell.oracle,
            "oracle_is": cell.oracle_name,
            "gap_closed": None if shares is None else float(shares.mean()),
            "env_steps": max(run.env_steps for run in cell.runs),
            "core_hours": sum(seconds) / len(seconds) / 3600 if seconds else None,
            "published": [{"value": f.value, "source": f.source} for f in published],
            "commands": [run.command for run in cell.runs],
            "evaluation": cell.evaluation,
        }


def write_report(cells: Sequence[Cell], folder: Path, papers: Papers) -> list[Path]:
    """Writes `report.md`, `report.csv`, `report.json` and, if a share of a gap is known, `report.png`.

    Returns:
        The written files.
    """
    records = list(rows(cells, papers))
    total = aggregates(cells, papers)
    stem = folder / "report"
    _write(stem.with_suffix(".md"), markdown(records, total))
    _write(stem.with_suffix(".csv"), _csv(records))
    summary = [
        {
            "agent": a.agent,
            "paper": a.paper,
            "families": list(a.families),
            "iqm": a.value,
            "interval": None if a.interval is None else list(a.interval),
            "shares": a.shares.tolist(),
        }
        for a in total
    ]
    _write(stem.with_suffix(".json"), readable_json({"cells": records, "aggregates": summary}) + "\n")
    written = [stem.with_suffix(suffix) for suffix in (".md", ".csv", ".json")]
    if total:
        _plot(cells, [a for a in total if not a.paper], stem.with_suffix(".png"))
        written.append(stem.with_suffix(".png"))
    return written


def markdown(records: Sequence[dict[str, Any]], total: Sequence[Aggregate]) -> str:
    """The tables as Markdown: one per family and split, then the aggregates, then the commands."""
    parts = [
        f"## {family} ({split})\n\n{family_table(group)}"
        for (family, split), group in groups(records).items()
    ]
    if total:
        rows = [
            (
                f"`{a.agent}`",
                a.paper or "all",
                str(len(a.families)),
                str(len(a.shares)),
                f"{a.value:.0%}"
                + ("" if a.interval is None else f" [{a.interval[0]:.0%}, {a.interval[1]:.0%}]"),
            )
            for a in total
        ]
        parts += [
            "## Share of the gap between zero action and the oracle",
            "IQM over training seeds and families; interval: bootstrap over training seeds, stratified by "
            "family.",
            table(("agent", "families of", "families", "training seeds", "share"), rows),
        ]
    parts += ["## Commands", "\n".join(f"    {command}" for command in commands(records))]
    return "\n\n".join(parts) + "\n"


def _csv(records: Sequence[dict[str, Any]]) -> str:
    """One row per training seed."""
    text = io.StringIO()
    names = ("family", "split", "agent", "preset", "changes", "protocol")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*names, "seed", "score", "zero", "random", "oracle", "env_steps", "core_hours", "command"]
    )
    for r in records:
        for seed, score, command in zip(r["seeds"], r["seed_scores"], r["commands"], strict=True):
            references = [r[name] for name in ("zero", "random", "oracle")]
            writer.writerow(
                [*(r[n] for n in names), seed, score, *references, r["env_steps"], r["core_hours"], command]
            )
    return text.getvalue()


def _plot(cells: Sequence[Cell], total: Sequence[Aggregate], path: Path) -> None:
    """Shares per family, a dot per training seed, and performance profiles over seeds and families."""
    families = sorted({family for a in total for family in a.families})
    figure = Figure(figsize=(11.0, 2.4 + 0.5 * len(families)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, a in enumerate(total):
        colour = COLOURS[number % len(COLOURS)]
        shift = 0.6 * ((number + 0.5) / len(total) - 0.5)
        for column, family in enumerate(a.families):
            y = np.full(len(a.shares), families.index(family) + shift)
            left.plot(a.shares[:, column], y, "o", color=colour, markersize=4, alpha=0.8)
        thresholds = np.linspace(min(0.0, float(a.shares.min())), max(1.0, float(a.shares.max())), 101)
        profile = performance_profile(a.shares, thresholds)
        right.step(
            thresholds, profile, where="post", color=colour, label=f"{a.agent}, families: {len(a.families)}"
        )
    left.set_yticks(range(len(families)), families)
    left.invert_yaxis()
    left.axvline(0.0, color=_GREY, linewidth=0.8)
    left.axvline(1.0, color=_GREY, linewidth=0.8)
    left.set_xlabel("share of the gap between zero action (0) and the oracle (1)")
    right.set_xlabel("share of the gap")
    right.set_ylabel("fraction of seeds and families above it")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8)
    figure.supxlabel(
        "Left: one dot per training seed. Right: performance profiles over training seeds and families.",
        x=0.01, ha="left", fontsize=8, color=_GREY,
    )  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
