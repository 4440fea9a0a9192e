"""The results of many runs as a matrix: one cell per agent, family, preset and evaluation.

Cells come from the directories of runs, wherever these are: in a sweep, below `runs/`, or among results.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl_agents.common.config import ConfigError
from metarl_agents.registry import find_agent
from metarl_agents.run.directory import RunError, core_seconds, read_entries
from metarl_envs.evaluation import Report, Result, Summary, iqm, normalised, pooled, summarise

#: Costs of an exported run.
COST = "cost.json"
#: Agents that observe the task; their score is the upper reference where there is no scripted oracle.
ORACLES = ("oracle", "joint_oracle")


@dataclass(frozen=True)
class Figure:
    """A published number.

    Attributes:
        agent: name of the agent.
        family: id of the family.
        value: the return.
        source: where it is from, and what differs from the evaluations here.
    """

    agent: str
    family: str
    value: float
    source: str


@dataclass(frozen=True)
class Papers:
    """Published numbers, and the families of each paper.

    Attributes:
        figures: the numbers.
        families: families by paper.
        titles: authors, year and reference by paper.
    """

    figures: tuple[Figure, ...] = ()
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Papers:
        """Reads a file such as `results/papers.toml`.

        Raises:
            ConfigError: when it cannot be read, or lacks a key.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            figures = tuple(Figure(**figure) for figure in values.get("figures", ()))
            papers = values.get("papers", {})
            families = {name: tuple(paper["families"]) for name, paper in papers.items()}
            titles = {name: paper.get("title", name) for name, paper in papers.items()}
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as a list of published numbers: {error}") from error
        return cls(figures, families, titles)


@dataclass(frozen=True)
class Run:
    """One training run with one report.

    Attributes:
        path: its directory.
        seed: training seed.
        command: the command that made it.
        env_steps: environment steps.
        core_seconds: CPU seconds of the training; None if they were not recorded.
        report: the report.
    """

    path: Path
    seed: int
    command: str
    env_steps: int
    core_seconds: float | None
    report: Report


class Key(NamedTuple):
    """What the runs of a cell share.

    Attributes:
        agent: name of the agent.
        family: id of the family.
        preset: name of the preset.
        changes: configuration values that differ from the preset, as text.
        protocol: name of the protocol, with what the evaluation changes in the agent.
        split: evaluated tasks.
    """

    agent: str
    family: str
    preset: str
    changes: str
    protocol: str
    split: str


@dataclass(frozen=True)
class Cell:
    """The training seeds of one agent on one family with one configuration, and one evaluation of them.

    Attributes:
        key: agent, family, configuration and evaluation.
        runs: the runs, by training seed.
        oracle: score (IQM) of the upper reference on the tasks; None if there is none.
        oracle_name: what it is: "scripted", or the agent that observes the task.
    """

    key: Key
    runs: tuple[Run, ...]
    oracle: float | None = None
    oracle_name: str = ""

    @property
    def result(self) -> Result:
        """The reports as one result."""
        return pooled([run.report for run in self.runs])

    @property
    def summary(self) -> Summary:
        """Score, references and intervals."""
        return summarise(self.result)

    @property
    def interval_over(self) -> str:
        """What the intervals of the summary cover, e.g. "3 training seeds"; see `interval_method`."""
        result = self.result
        number, tasks = result.scores.shape
        return f"{number} {result.unit}s" if number > 1 else f"{tasks} tasks" if tasks > 1 else "nothing"

    @property
    def evaluation(self) -> str:
        """Options of `metarl evaluate` that give the report of a run."""
        report = self.runs[0].report
        protocol = report.protocol
        words = ["--split", protocol.split, "--protocol", protocol.name]
        words += ["--seeds", ",".join(map(str, protocol.seeds))]
        if protocol.num_tasks is not None:
            words += ["--tasks", str(protocol.num_tasks)]
        # What an evaluation changes in the agent is recorded in its command only.
        given = shlex.split(report.provenance.command_line)
        for option, value in itertools.pairwise(given):
            if option == "--set":
                words += [option, value]
        return shlex.join(words)

    @property
    def seed_scores(self) -> list[float]:
        """IQM of the score of each training seed; see `score_of`."""
        return [self.score_of(run.report.scores) for run in self.runs]

    @property
    def references(self) -> dict[str, float]:
        """IQM of the score of each reference in the reports; see `score_of`."""
        return {name: self.score_of(scores) for name, scores in self.runs[0].report.references.items()}

    @property
    def shares(self) -> NDArray[np.float64] | None:
        """Share of the gap between zero action and the oracle that each seed closes (S,).

        None without an oracle, or if it is not better than zero action.
        """
        low, high = self.references.get("zero"), self.oracle
        if low is None or high is None or high <= low:
            return None
        return np.asarray(normalised(self.seed_scores, low, high))

    def score_of(self, scores: NDArray[np.float64]) -> float:
        """IQM of scores (R, T), as the summary computes it, so that all numbers of a cell compare.

        With one training seed, it is the IQM over trial seeds and tasks. With several, the trial seeds are
        averaged first, as in `Pooled`.
        """
        return float(iqm(scores if len(self.runs) == 1 else scores.mean(axis=0)))


def find_cells(folders: Sequence[Path]) -> list[Cell]:
    """The cells of all runs with reports in some directories, sorted by family, agent and preset.

    A run that occurs twice, e.g. in a sweep and exported, counts once; the first directory wins. Reports that
    do not fit the others of their cell, e.g. because of other trial seeds, are left out with a warning.

    Raises:
        ConfigError: when there is no run with a report.
    """
    groups: dict[Key, dict[int, Run]] = {}
    for folder in folders:
        for path in sorted(p.parent for p in folder.rglob("config.json")):
            description = _description(path)
            if description is None:
                continue
            for file in sorted(path.glob("report_*.json")):
                try:
                    report = Report.from_json(file)
                except ValueError as error:
                    warnings.warn(f"left out: {error}", stacklevel=2)
                    continue
                key = _key(description, report, file)
                runs = groups.setdefault(key, {})
                if description["seed"] not in runs:
                    runs[description["seed"]] = _run(path, description, report)
    if not groups:
        raise ConfigError(f"no run with a report in {', '.join(map(str, folders))}")
    cells = [Cell(key, _consistent(key, runs)) for key, runs in sorted(groups.items(), key=_order)]
    return [_with_oracle(cell, cells) for cell in cells]


def _order(entry: tuple[Key, Any]) -> tuple[str, ...]:
    key = entry[0]
    return (key.family, key.split, key.agent, key.preset, key.changes, key.protocol)


def _description(path: Path) -> dict[str, Any] | None:
    try:
        return read_entries(path)
    except RunError as error:
        warnings.warn(f"left out: {error}", stacklevel=3)
        return None


def _key(description: Mapping[str, Any], report: Report, file: Path) -> Key:
    skipped = find_agent(description["agent"]).load().config_class.bookkeeping
    overrides = sorted(description["overrides"].items())
    changes = " ".join(f"{key}={value}" for key, value in overrides if key not in skipped)
    # What the evaluation changed is in the name of the file.
    protocol = file.stem.removeprefix(f"report_{report.protocol.split}_")
    return Key(
        description["agent"],
        description["env_id"],
        description["preset"],
        changes,
        protocol,
        report.protocol.split,
    )


def _run(path: Path, description: Mapping[str, Any], report: Report) -> Run:
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    cost = path / COST
    seconds = json.loads(cost.read_text())["core_seconds"] if cost.exists() else core_seconds(path)
    steps = int(json.loads(lines[-1])["env_steps"]) if lines else 0
    return Run(path, description["seed"], description["command"], steps, seconds, report)


def _consistent(key: Key, runs: Mapping[int, Run]) -> tuple[Run, ...]:
    first = runs[min(runs)]
    kept = []
    for seed in sorted(runs):
        report = runs[seed].report
        if (report.protocol, report.tasks) == (first.report.protocol, first.report.tasks):
            kept.append(runs[seed])
        else:
            warnings.warn(
                f"{runs[seed].path}: left out, because its tasks or trial seeds differ from those of"
                f" {first.path} ({', '.join(key)})",
                stacklevel=2,
            )
    return tuple(kept)


def _with_oracle(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """The cell with its upper reference: the scripted oracle, else a trained agent that observes the task."""
    if "oracle" in cell.references:
        return dataclasses.replace(cell, oracle=cell.references["oracle"], oracle_name="scripted")
    key, tasks = cell.key, cell.runs[0].report.tasks
    trained = [
        (float(iqm(other.result.scores)), f"{other.key.agent}, trained")
        for other in cells
        if other.key.agent in ORACLES
        and (other.key.family, other.key.split) == (key.family, key.split)
        and other.runs[0].report.tasks == tasks
    ]
    value, name = max(trained, default=(None, ""))
    return dataclasses.replace(cell, oracle=value, oracle_name=name)
