"""Sections of results/README.md about studies, from the files `study.json` in results/iwpa and results/slbo.

What the numbers do not say is written by hand in the study's remarks.md and follows the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl_agents.sweep.tables import percent, table

Record = Mapping[str, Any]


def study_sections(folder: Path) -> list[str]:
    """Returns the sections of the studies in `folder`/iwpa and `folder`/slbo, in the order of their names."""
    return [
        text
        for agent, section in (("iwpa", _section), ("slbo", _slbo_section))
        for path in sorted(folder.glob(f"{agent}/*/study.json"))
        for text in section(path.parent, json.loads(path.read_text(encoding="utf-8")))
    ]


def _section(folder: Path, study: Record) -> list[str]:
    few = "" if study["train_tasks"] is None else f", {study['train_tasks']} training tasks"
    coverage = ", ".join(
        f"{numbers['prior_coverage_of_validation_tasks']:.2f} (seed {seed})"
        for seed, numbers in study["seeds"].items()
    )
    seconds = ", ".join(f"{numbers['pretraining_core_seconds']:.0f}" for numbers in study["seeds"].values())
    references = ", ".join(f"{name} {value:.4g}" for name, value in study["references"].items())
    parts = [
        f"## Adaptation study: {folder.name}",
        f"{study['family']}, {study['tasks']} {study['split']} tasks, {study['episodes']} episodes, trial "
        f"seeds {', '.join(map(str, study['trial_seeds']))}; pre-training `{study['pretraining']}`, preset "
        f"`{study['preset']}`{few}. Score of the references (mean): {references}. Share of the validation "
        f"tasks that the behaviour prior alone solves in 60 episodes: {coverage}. Core seconds of the "
        f"pre-training: {seconds}.",
        _numbers(study),
    ]
    for episodes in dict.fromkeys(tuple(d["episodes"]) for d in study["differences"]):
        parts += [
            f"Mean return of episodes {episodes[0]} to {episodes[1]}, row minus column, paired by "
            "pre-training and task: mean, [95 % interval over tasks], (95 % interval over tasks and "
            "pre-trainings):",
            _differences(study, episodes),
        ]
    parts += [f"    {study['command']}", f"![Returns along the episodes](iwpa/{folder.name}/study.png)"]
    remarks = folder / "remarks.md"
    if remarks.exists():
        parts.append(remarks.read_text(encoding="utf-8").strip())
    return parts


def _slbo_section(folder: Path, study: Record) -> list[str]:
    rows = []
    for name, numbers in study["results"].items():
        seeds = ", ".join(f"{sum(row) / len(row):.4g}" for row in numbers["scores"])
        rows.append((name, _interval(numbers["score"]), seeds))
    first = next(iter(study["results"].values()))
    rows += [(name, f"{value:.4g}", "") for name, value in first["references"].items()]
    parts = [
        f"## Multi-task SLBO: {folder.name}",
        f"{study['family']}, {len(study['tasks'])} {study['split']} tasks, protocol `{study['protocol']}`, "
        f"preset `{study['preset']}`. Returns are means over training seeds and tasks, with 95 % intervals "
        "over both.",
        table(("", "score (mean)", "each training seed"), rows),
    ]
    if len(first["curve"]) > 1 and any(study["adapting"]):
        stages = [
            (
                name,
                *(
                    f"{v:.4g}"
                    for v, adapts in zip(numbers["curve"], study["adapting"], strict=True)
                    if not adapts
                ),
            )
            for name, numbers in study["results"].items()
        ]
        head = ("IQM", "after the warm-up", *(f"stage {n}" for n in range(1, len(stages[0]) - 1)))
        parts.append(table(head, stages))
    if study["differences"]:
        parts += [
            "Differences, paired by training seed and task: mean, 95 % interval over both.",
            table(
                ("first", "second", "first minus second"),
                [(d["first"], d["second"], _interval(d["first_minus_second"])) for d in study["differences"]],
            ),
        ]
    costs = [
        (
            seed,
            selection,
            f"{c['env_steps']:,}",
            f"{c['rating_steps']:,}",
            f"{c['trained_tasks']}",
            f"{c['skipped_tasks']}",
            _or_dash(c["virtual_minus_real_of_the_last_tasks"], ".1f"),
            _or_dash(c["core_seconds"], ",.0f"),
        )
        for seed, by_selection in study["seeds"].items()
        for selection, c in by_selection.items()
    ]
    head = (
        "training seed", "selection", "real steps", "of them to rate tasks", "tasks", "skipped",
        "virtual minus real return of the last 10 tasks", "core seconds of training",
    )  # fmt: skip
    parts += [table(head, costs), f"    {study['command']}", f"![Returns](slbo/{folder.name}/study.png)"]
    remarks = folder / "remarks.md"
    if remarks.exists():
        parts.append(remarks.read_text(encoding="utf-8").strip())
    return parts


def _numbers(study: Record) -> str:
    """Returns the table of scores and areas."""
    lines = []
    for name, numbers in study["variants"].items():
        reached = numbers["episodes_until_80_percent"]
        curve = dict(enumerate(numbers["curve"]["estimate"], 1))
        lines.append(
            (
                f"`{name}`",
                f"{numbers['score_mean']:.4g}",
                percent(numbers["success"]),
                _interval(numbers["area"]),
                *(f"{curve[e]:.3g}" if e in curve else "–" for e in (10, 20, 40)),
                "–" if reached is None else f"{reached}",
            )
        )
    head = (
        "variant", "score (mean)", "success", "mean return of all episodes", "at episode 10", "20", "40",
        "episodes until 80 % of the oracle",
    )  # fmt: skip
    return table(head, lines)


def _differences(study: Record, episodes: tuple[int, ...]) -> str:
    """Returns a matrix of the differences over some episodes, without its lower half."""
    found = {
        (d["first"], d["second"]): _both_intervals(d)
        for d in study["differences"]
        if tuple(d["episodes"]) == episodes
    }
    names = list(study["variants"])
    lines = [(f"`{row}`", *(found.get((row, column), "") for column in names[1:])) for row in names[:-1]]
    return table(("", *(f"`{name}`" for name in names[1:])), lines)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _interval(numbers: list[float]) -> str:
    return f"{numbers[0]:.3g} [{numbers[1]:.3g}, {numbers[2]:.3g}]"


def _both_intervals(difference: Record) -> str:
    mean, low, high = difference["first_minus_second"]
    own = [mean, *difference["interval_over_tasks"]]
    return f"{_interval(own)} ({low:.3g}, {high:.3g})"
