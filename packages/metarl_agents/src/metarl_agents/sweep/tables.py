"""Results as tables in Markdown, for `metarl report` and for the pages that are generated from results."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: One record per cell, as `metarl_agents.sweep.report.rows` yields them.
Records = Sequence[Mapping[str, Any]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without its empty columns; vertical bars in its fields are escaped."""
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    head, rows = [head[c] for c in kept], [[row[c] for c in kept] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(field.replace("|", "\\|") for field in row) + " |" for row in rows]
    return "\n".join(lines)


def groups(records: Records) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The records of each family and split, in the order in which these occur."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault((record["family"], record["split"]), []).append(record)
    return found


def family_table(group: Records, describe: Callable[[Mapping[str, Any]], str] | None = None) -> str:
    """The records of one family and split as a table, with their references, tasks and seeds below it.

    Args:
        group: the records.
        describe: text of the first column; `name` by default.
    """
    head = (
        "agent", "protocol", "first batch (IQM)", "score (IQM, 95 % interval)", "interval over",
        "training seeds", "rise (mean, 95 % interval over tasks)", "gap closed", "success", "steps", "core h",
        "published",
    )  # fmt: skip
    rows = [
        (
            (describe or name)(r),
            r["protocol"],
            number(r["first"]),
            score(r),
            r["interval_over"],
            ", ".join(f"{s}: {v:.4g}" for s, v in zip(r["seeds"], r["seed_scores"], strict=True)),
            "" if r["rise"] is None else _estimate(*r["rise"]),
            percent(r["gap_closed"]),
            percent(r["success"]),
            f"{r['env_steps']:,}",
            hours(r["core_hours"]),
            "; ".join(f"{p['value']:g} ({p['source']})" for p in r["published"]),
        )
        for r in group
    ]
    return f"{table(head, rows)}\n\n{_evaluations(group)}"


def _evaluations(group: Records) -> str:
    """A line per kind of evaluation; references differ with tasks, trial seeds and how these are averaged."""
    protocols: dict[str, list[str]] = {}
    for r in group:
        values = [f"{key} {number(r[key])}" for key in ("zero", "random") if r[key] is not None]
        if r["oracle"] is not None:
            values.append(f"oracle ({r['oracle_is']}) {number(r['oracle'])}")
        text = f"{r['size']}; intervals: {r['interval']}; references (IQM): {', '.join(values) or 'none'}."
        protocols.setdefault(text, []).append(r["protocol"])
    return "\n".join(f"- {', '.join(dict.fromkeys(names))}: {text}" for text, names in protocols.items())


def commands(group: Records) -> list[str]:
    """The commands that train and evaluate the runs of some records.

    RUNS stands for a directory of one's own. Commands that differ in the training seed only are one.
    """
    found: dict[str, dict[str, None]] = {}
    for r in group:
        seeds: dict[str, list[str]] = {}
        for seed, command in zip(r["seeds"], r["commands"], strict=True):
            seeds.setdefault(_without(command, "--seed", "--out", "--no-progress"), []).append(str(seed))
        for command, those in seeds.items():
            # With several seeds, each run has a directory of its own inside the given one.
            runs = "RUNS/seed-*" if len(those) > 1 else "RUNS"
            train = f"{command} --seed {','.join(those)} --out RUNS"
            found.setdefault(train, {})[f"metarl evaluate {runs} {r['evaluation']}"] = None
    return [line for train, evaluations in found.items() for line in (train, *evaluations)]


def _without(command: str, *options: str) -> str:
    """A command without some options and their values."""
    words = shlex.split(command)
    kept = []
    while words:
        word = words.pop(0)
        if word not in options:
            kept.append(word)
        elif not word.startswith("--no-"):
            words = words[1:]
    return shlex.join(kept)


def name(record: Mapping[str, Any], folder: str = "") -> str:
    """Agent, preset and what was changed in it; the agent's name is a link if its folder is given."""
    agent = f"`{record['agent']}`"
    if folder:
        agent = f"[{agent}]({folder})"
    changes = f" `{record['changes']}`" if record["changes"] else ""
    return f"{agent} {record['preset']}{changes}"


def score(record: Mapping[str, Any]) -> str:
    """Score with its interval."""
    return _estimate(record["iqm"], record["low"], record["high"])


def _estimate(value: float, low: float, high: float) -> str:
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def number(value: float | None) -> str:
    """Four digits of a number; empty if there is none."""
    return "" if value is None else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A fraction in percent; empty if it is not known."""
    return "" if value is None else f"{value:.0%}"


def hours(value: float | None) -> str:
    """Core hours; empty if they are not known."""
    return "" if value is None else f"{value:.2f}"
