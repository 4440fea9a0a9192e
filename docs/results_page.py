"""results/README.md and the README's table of results.

Their numbers come from the reports in results/. Written by hand are results/remarks (what the numbers do not
say), results/marks.toml (what a reader must know about a result) and results/papers.toml (published numbers).
The text of the family ID is remarks/ID.md; introduction.md comes first, validation.md before the choices of
presets, and any other file at the end. Adaptation studies have sections of their own (study_sections.py).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_sections import study_sections

from metarl_agents.sweep.matrix import Papers, find_cells
from metarl_agents.sweep.report import rows
from metarl_agents.sweep.tables import (
    commands,
    family_table,
    groups,
    hours,
    name,
    number,
    percent,
    score,
    table,
)
from metarl_envs import family, registered_ids

Record = Mapping[str, Any]
INTRODUCTION, VALIDATION = "introduction", "validation"


@dataclass(frozen=True)
class Results:
    """Everything that the texts are made of.

    Attributes:
        folder: the folder of results.
        records: one record per cell, as `metarl_agents.sweep.report.rows` yields them.
        validation: the same of the choices of presets.
        papers: published numbers, and the families of each paper.
        marks: texts by family, agent and preset.
        remarks: texts by name of the file.
    """

    folder: Path
    records: list[Record]
    validation: list[Record]
    papers: Papers
    marks: Mapping[tuple[str, str, str], str]
    remarks: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Reads a folder of results.

        Raises:
            ValueError: when a mark or a file with remarks is of something that is not there.
        """
        papers = Papers.read(folder / "papers.toml")
        agents = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name != VALIDATION]
        records = list(rows(find_cells(agents), papers))
        checks = folder / VALIDATION
        validation = list(rows(find_cells([checks]), Papers())) if checks.exists() else []
        remarks = {
            path.stem: path.read_text(encoding="utf-8").strip()
            for path in sorted(folder.glob("remarks/*.md"))
        }
        for stem in remarks:
            if stem.startswith("Meta") and stem not in registered_ids():
                raise ValueError(f"results/remarks/{stem}.md: there is no family {stem}")
        return cls(folder, records, validation, papers, _marks(folder / "marks.toml", records), remarks)

    def mark(self, record: Record) -> str:
        """What a reader must know about a result; often nothing."""
        return self.marks.get((record["family"], record["agent"], record["preset"]), "")

    def chosen(self, agent: str, env_id: str) -> Record | None:
        """The result that stands for an agent on a family, on the test tasks.

        It is the one with the most training seeds; among these, an unchanged preset and an unchanged
        evaluation come first.
        """
        found = [r for r in self.records if (r["agent"], r["family"], r["split"]) == (agent, env_id, "test")]
        return max(
            found,
            key=lambda r: (len(r["seeds"]), not r["changes"], "--set" not in r["evaluation"]),
            default=None,
        )


def _marks(path: Path, records: list[Record]) -> dict[tuple[str, str, str], str]:
    known = {(r["family"], r["agent"], r["preset"]) for r in records}
    found = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["marks"]:
        for agent in entry["agents"]:
            key = (entry["family"], agent, entry["preset"])
            if key not in known:
                raise ValueError(f"{path.name}: there is no result of {agent} ({key[2]}) on {key[0]}")
            found[key] = entry["mark"]
    return found


def page(results: Results) -> str:
    """Returns results/README.md."""
    notice = "<!-- Generated: edit the files in results/remarks and run `python docs/generate.py`. -->"
    parts = [notice, results.remarks[INTRODUCTION], *_by_paper(results)]
    by_group = groups(results.records)
    for env_id in registered_ids():
        splits = {split: group for (found, split), group in by_group.items() if found == env_id}
        if splits or env_id in results.remarks:
            parts += _family(results, env_id, splits)
    if results.validation:
        parts.append(results.remarks[VALIDATION])
    for (env_id, split), group in groups(results.validation).items():
        heading = f"### {env_id}: {split} tasks, for the choice of presets"
        parts += [heading, family_table(group), _block(commands(group))]
    parts += study_sections(results.folder)
    placed = {*registered_ids(), INTRODUCTION, VALIDATION}
    parts += [text for stem, text in results.remarks.items() if stem not in placed]
    return "\n\n".join(parts) + "\n"


def _family(results: Results, env_id: str, splits: Mapping[str, list[Record]]) -> list[str]:
    papers = [title for key, title in results.papers.titles.items() if env_id in results.papers.families[key]]
    about = f"[Definition](../docs/environments/{env_id}.md)."
    if papers:
        about += f" In the experiments of {'; '.join(papers)}."
    if family(env_id).train_equals_test:
        about += " Training and test tasks are the same."
    parts = [f"## {env_id}", about]

    def describe(record: Record) -> str:
        mark = results.mark(record)
        text = name(record, _folder(record))
        return f"{text}, *{mark}*" if mark else text

    for split, group in sorted(splits.items(), key=lambda item: item[0] != "test"):
        parts += [f"### {env_id}: {split} tasks", family_table(group, describe), _block(commands(group))]
    if env_id in results.remarks:
        parts.append(results.remarks[env_id])
    return parts


def _by_paper(results: Results) -> list[str]:
    parts = [
        "## Agents and families of each paper",
        "Scores on the test tasks, and in brackets the gap closed. Protocols are those of the agents and"
        " differ; the sections of the families have everything else. A dash: there is no result yet.",
    ]
    for key, title in results.papers.titles.items():
        families = results.papers.families[key]
        agents = sorted(
            {r["agent"] for r in results.records if r["family"] in families and r["split"] == "test"}
        )
        if not agents:
            continue
        lines = []
        for env_id in families:
            cells = [_brief(results.chosen(agent, env_id)) for agent in agents]
            lines.append(
                (f"[{env_id}](#{env_id.lower()})" if any(c != "–" for c in cells) else env_id, *cells)
            )
        parts += [f"### {title}", table(("family", *(f"`{agent}`" for agent in agents)), lines)]
    return parts


def _brief(record: Record | None) -> str:
    if record is None:
        return "–"
    share = percent(record["gap_closed"])
    return number(record["iqm"]) + (f" ({share})" if share else "")


def summary_table(results: Results) -> str:
    """Returns the README's table: one result of each agent and family."""
    pairs = dict.fromkeys((r["family"], r["agent"]) for r in results.records)
    lines = []
    for env_id, agent in pairs:
        record = results.chosen(agent, env_id)
        if record is None:
            continue
        lines.append(
            (
                f"[{env_id}](docs/environments/{env_id}.md)",
                name(record, f"results/{_folder(record)}"),
                score(record),
                record["interval_over"],
                number(record["zero"]),
                number(record["oracle"]),
                f"{record['env_steps']:,}",
                hours(record["core_hours"]),
                results.mark(record),
            )
        )
    head = (
        "family", "agent", "score (IQM, 95 % interval)", "interval over", "zero action", "oracle", "steps",
        "core h per seed", "mark",
    )  # fmt: skip
    return table(head, lines)


def _folder(record: Record) -> str:
    return f"{record['agent']}/{record['family']}"


def _block(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
