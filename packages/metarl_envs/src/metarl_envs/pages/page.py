"""The documentation page of a family, generated from its specification, body and objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from metarl_envs.bodies.base import Row
from metarl_envs.core import build_core
from metarl_envs.families.family import Family

_COMMON_ARGUMENTS = (
    ("split", "train", "split that `task` indexes into"),
    ("task", None, "index into the split, a `Task`, or the dict of a task; None selects index 0"),
    ("observe_task", False, "append the task parameters to the observation (for oracle agents)"),
    ("render_mode", None, "None, or 'rgb_array' for images"),
)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table in Markdown; vertical bars in cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines)


def _spans(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    result, start = [], 0
    for row in rows:
        end = start + row.size - 1
        result.append((str(start) if row.size == 1 else f"{start} to {end}", row.what, row.unit))
        start += row.size
    return result


def _further_terms(family: Family, known: Sequence[str]) -> dict[str, str]:
    """Returns the reward terms that exist only for another value of an argument, and that value."""
    found: dict[str, str] = {}
    for argument in family.arguments.values():
        for choice in argument.choices:
            core = build_core(family, **{argument.name: choice})
            for name in core.objective.term_names:
                if name not in known:
                    found[name] = f"`{argument.name}={choice!r}`"
            core.close()
    return found


def _about_splits(family: Family) -> str:
    """Returns the text below the table of splits: subsets, or why there is no validation split."""
    if family.train_equals_test:
        return "\n\nThese are all tasks of the family, so there is no validation split."
    rows = [
        f"- Subset `{name}`: the first {subset.count} {subset.split} tasks. {subset.doc}."
        for name, subset in family.subsets.items()
    ]
    return "\n\n" + "\n".join(rows) if rows else ""


def page(family: Family, additions: Mapping[str, str] | None = None) -> str:
    """Returns a family's documentation page in Markdown.

    Args:
        family: the family.
        additions: texts to insert before sections; the keys are headings of sections.
    """
    core = build_core(family)
    body, objective = core.body, core.objective
    splits = [
        (
            name,
            split.count,
            split.distribution.describe(),
            "same tasks as train" if family.train_equals_test and name == "test" else "frozen table",
        )
        for name, split in family.splits.items()
    ]
    info = [("task_id", "index of the task in its split; -1 for a task that is not in the frozen table")]
    info += [("success", objective.success_text)]
    info += [("diverged", "whether the simulation became unstable, which ends the episode")]
    info += [(name, "reward term; the terms sum to the reward") for name in objective.term_names]
    info += [
        (name, f"reward term, only with {when}")
        for name, when in _further_terms(family, objective.term_names).items()
    ]
    info += [*objective.extra_info.items(), *body.info_keys.items()]
    arguments = [(f"`{n}`", f"`{d!r}`", doc) for n, d, doc in _COMMON_ARGUMENTS]
    arguments += [
        (f"`{a.name}`", f"`{a.default!r}`", f"{a.doc}. Choices: {', '.join(map(repr, a.choices))}")
        for a in family.arguments.values()
    ]
    parameters = zip(
        family.parameter_names,
        family.parameter_low,
        family.parameter_high,
        family.parameter_units,
        strict=True,
    )
    sections = [
        f"# {family.id}\n\n**{family.title}**\n\n{family.summary}",
        f"Horizon: {family.horizon} steps of {body.dt:g} s. Episodes that reach it are truncated."
        if body.model is not None
        else f"Horizon: {family.horizon} steps. Episodes that reach it are truncated.",
        "## Actions\n\n"
        f"`Box(-1, 1, {core.action_space.shape}, float32)`. Actions outside this range are clipped, and"
        " control costs are computed from the clipped action.\n\n"
        + markdown_table(("element", "meaning", "unit"), _spans(body.actions)),
        "## Observations\n\n"
        f"`Box({core.observation_space.shape}, float32)` with default arguments:\n\n"
        + markdown_table(("element", "meaning", "unit"), _spans(body.observations)),
        f"## Reward\n\n    {objective.formula}\n\nSuccess: {objective.success_text}.",
        "## Tasks\n\n"
        + markdown_table(("parameter", "low", "high", "unit"), [tuple(p) for p in parameters])
        + "\n\n"
        + markdown_table(("split", "tasks", "distribution", "source"), splits)
        + _about_splits(family),
        f"## Start\n\n{body.start_text}",
        f"## End\n\n{body.end_text}",
        "## Info\n\n" + markdown_table(("key", "meaning"), [(f"`{k}`", v) for k, v in info]),
        "## Arguments\n\n" + markdown_table(("argument", "default", "meaning"), arguments),
        "## Provenance\n\n"
        + markdown_table(
            ("historical variant", "what is the same", "what differs"),
            [(p["variant"], p["same"], p["differs"]) for p in family.provenance],
        ),
        "## Version history\n\n"
        + markdown_table(("version", "change"), [(h["version"], h["change"]) for h in family.history]),
    ]
    core.close()
    for heading, text in (additions or {}).items():
        place = next(i for i, section in enumerate(sections) if section.startswith(f"## {heading}\n"))
        sections.insert(place, text)
    return "\n\n".join(sections) + "\n"
