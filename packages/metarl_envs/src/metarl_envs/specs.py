"""Families: the specifications in `tasks_spec/`, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from metarl_envs import distributions, schema, tables
from metarl_envs.bodies import BODIES
from metarl_envs.distributions import Distribution
from metarl_envs.objectives import OBJECTIVES
from metarl_envs.schema import SpecError, listed, suggestion
from metarl_envs.tasks import OFF_TABLE, Task

SPLITS = ("train", "test", "ood")
"""The split names there are, in the order of every table."""

HORIZON = schema.integer(1)
"""What a time limit may be, which registration reads alone."""

_KEYS = {
    "title": schema.text(),
    "summary": schema.text(),
    "body": schema.one_of(BODIES),
    "objective": schema.one_of(OBJECTIVES),
    "horizon": HORIZON,
    "train_equals_test": schema.flag(required=False),
    "body_options": schema.table(required=False),
    "objective_options": schema.table(required=False),
    "parameters": schema.table(),
    "distribution": schema.table(),
    "table": schema.table(),
    "splits": schema.table(),
    "subsets": schema.table(required=False),
    "arguments": schema.table(required=False),
    "provenance": schema.tables(),
    "history": schema.tables(),
}
_PARAMETER_KEYS = {
    "names": schema.texts(),
    "units": schema.texts(),
    "low": schema.numbers(),
    "high": schema.numbers(),
}
_TABLE_KEYS = {
    "rule": schema.one_of(tables.RULES),
    "seed": schema.integer(0, required=False),
    "splits": schema.texts(required=False),
    "options": schema.table(required=False),
}
_SPLIT_KEYS = {"count": schema.integer(1), "distribution": schema.table(required=False)}
_ARGUMENT_KEYS = {
    "of": schema.one_of(("body", "objective", "both")),
    "default": schema.anything(),
    "choices": schema.Key(lambda v: isinstance(v, list) and len(v) > 1, "a list of choices"),
    "doc": schema.text(),
}
_PROVENANCE_KEYS = {"variant": schema.text(), "same": schema.text(), "differs": schema.text()}
_SUBSET_KEYS = {"split": schema.text(), "count": schema.integer(1), "doc": schema.text()}
_HISTORY_KEYS = {"version": schema.text(), "change": schema.text()}


@dataclass(frozen=True)
class Split:
    """One split of a family: how many tasks, and from what they were drawn."""

    name: str
    count: int
    distribution: Distribution


@dataclass(frozen=True)
class Argument:
    """A keyword argument of a family's own: whose option it is, and the values it may take."""

    name: str
    of: str
    default: Any
    choices: tuple[Any, ...]
    doc: str


@dataclass(frozen=True, eq=False)
class Family:
    """A set of tasks over one body and objective, as its specification file defines it.

    Attributes:
        id: the Gymnasium id, with its version; also the specification's file name.
        title: one line.
        summary: a paragraph for the documentation page.
        body: name of the body, a module in `metarl_envs.bodies`.
        objective: name of the objective in `metarl_envs.objectives`.
        horizon: the time limit in steps.
        train_equals_test: whether train and test hold the same tasks, as they must where a family has
            only two.
        parameter_names: the task parameters' names, P of them.
        parameter_units: their units.
        distribution: what train and test are drawn from.
        splits: name -> `Split`, in the order train, test, ood.
        arguments: name -> the family's own keyword `Argument`.
        body_options: keyword options of the body.
        objective_options: keyword options of the objective.
        table_rule: the rule in `metarl_envs.tables` that derives the frozen tables.
        table_seed: that rule's seed, where it takes one.
        table_splits: the splits that rule derives, in its order; the others are drawn by `philox`.
        table_options: that rule's further numbers.
        subsets: name -> (split, count): the first `count` tasks of a split under a name of their own.
        provenance: rows of the provenance table (`variant`, `same`, `differs`).
        history: rows of the version history (`version`, `change`).
    """

    id: str
    title: str
    summary: str
    body: str
    objective: str
    horizon: int
    train_equals_test: bool
    parameter_names: tuple[str, ...]
    parameter_units: tuple[str, ...]
    parameter_low: tuple[float, ...]
    parameter_high: tuple[float, ...]
    distribution: Distribution
    splits: Mapping[str, Split]
    arguments: Mapping[str, Argument]
    body_options: Mapping[str, Any]
    objective_options: Mapping[str, Any]
    table_rule: str
    table_seed: int | None
    table_splits: tuple[str, ...]
    table_options: Mapping[str, float]
    subsets: Mapping[str, tuple[str, int]]
    provenance: tuple[Mapping[str, str], ...]
    history: tuple[Mapping[str, str], ...]

    @property
    def task_space(self) -> Box:
        """The smallest box that holds every task of every split, float64 `(P,)`."""
        return Box(np.array(self.parameter_low), np.array(self.parameter_high), dtype=np.float64)

    @cached_property
    def _tasks(self) -> dict[str, tuple[Task, ...]]:
        return {
            name: tuple(Task(self.id, name, i, tuple(row)) for i, row in enumerate(rows.tolist()))
            for name, rows in tables.load(self).items()
        }

    def page(self) -> str:
        """Returns the family's documentation page in Markdown; it builds a simulation to describe it."""
        from metarl_envs.page import page  # which needs the bodies, and they MuJoCo

        return page(self)

    def split(self, name: str) -> Split:
        """Returns a split.

        Raises:
            ValueError: the family has no such split.
        """
        if name not in self.splits:
            raise ValueError(
                f"{self.id} has the splits {listed(self.splits)}, not {name!r}"
                + suggestion(str(name), self.splits)
            )
        return self.splits[name]

    def tasks(self, split: str = "train") -> tuple[Task, ...]:
        """Returns a split's frozen tasks.

        Raises:
            ValueError: the family has no such split.
            SpecError: the frozen table does not have its recorded checksum.
        """
        return self._tasks[self.split(split).name]

    def subset(self, name: str) -> tuple[Task, ...]:
        """Returns the tasks of a named subset.

        Raises:
            ValueError: the family has no such subset.
        """
        if name not in self.subsets:
            raise ValueError(
                f"{self.id} has no subset {name!r} (there are: {listed(self.subsets) or 'none'})"
            )
        split, count = self.subsets[name]
        return self.tasks(split)[:count]

    def task(self, split: str, index: int) -> Task:
        """Returns one frozen task.

        Raises:
            ValueError: there is no such split, or the index is out of range.
        """
        tasks = self.tasks(split)
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise ValueError(f"a task index is an integer, got {index!r}")
        if not 0 <= index < len(tasks):
            raise ValueError(
                f"task index {index} is out of range: {self.id} has {len(tasks)} {split} tasks,"
                f" numbered 0 to {len(tasks) - 1}"
            )
        return tasks[int(index)]

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> tuple[Task, ...]:
        """Draws tasks beyond the table, from the split's distribution.

        Args:
            n: how many.
            rng: the generator to draw from.
            split: whose distribution.

        Returns:
            `n` tasks with index -1; of a discrete family, `n` tasks of its table.

        Raises:
            ValueError: `n` is negative or the family has no such split.
        """
        if n < 0:
            raise ValueError(f"the number of tasks must not be negative, got {n}")
        distribution = self.split(split).distribution
        rows = distribution.sample(n, rng)
        if distribution.discrete:
            members = {task.parameters: task for task in self.tasks(split)}
            return tuple(members[tuple(row)] for row in rows.tolist())
        return tuple(Task(self.id, split, OFF_TABLE, tuple(row)) for row in rows.tolist())

    def resolve_task(self, task: Any, split: str) -> Task:
        """Turns what a user may pass as a task into a `Task` of this family.

        Args:
            task: an index into the split, a `Task`, or a task's dict.
            split: the split an index refers to.

        Raises:
            ValueError: the task is of another family, out of range, or of none of these forms.
        """
        if isinstance(task, Mapping):
            task = Task.from_dict(task)
        if not isinstance(task, Task):
            return self.task(split, task)
        if task.family != self.id:
            raise ValueError(f"the task belongs to {task.family}, not to {self.id}")
        if task.index != OFF_TABLE:
            if task != self.task(task.split, task.index):
                raise ValueError(
                    f"the task's parameters are not those of {self.id}, {task.split} task"
                    f" {task.index}; a task with parameters of one's own has index {OFF_TABLE}"
                )
            return task
        self.split(task.split)
        vector = task.vector
        if vector.shape != self.task_space.shape or not np.isfinite(vector).all():
            raise ValueError(
                f"a task of {self.id} has {len(self.parameter_names)} finite parameters"
                f" ({', '.join(self.parameter_names)}), got {task.parameters}"
            )
        return task

    def resolve_arguments(self, given: Mapping[str, Any], others: tuple[str, ...] = ()) -> dict[str, Any]:
        """Fills in the defaults of the family's own keyword arguments.

        Args:
            given: the arguments that were given.
            others: what else is allowed where they were given, for the message.

        Raises:
            TypeError: an argument is unknown.
            ValueError: an argument has a value that is not among its choices.
        """
        values = {name: argument.default for name, argument in self.arguments.items()}
        for name, value in given.items():
            if name not in self.arguments:
                allowed = (*others, *self.arguments)
                raise TypeError(
                    f"{self.id} has no argument {name!r} (allowed: {listed(allowed)})"
                    + suggestion(name, allowed)
                )
            choices = self.arguments[name].choices
            if value not in choices:
                raise ValueError(
                    f"{name} of {self.id} must be one of {', '.join(map(repr, choices))}, got {value!r}"
                )
            values[name] = value
        return values


def _arguments(file: str, table: Mapping[str, Any]) -> dict[str, Argument]:
    arguments = {}
    schema.check(file, "arguments", table, dict.fromkeys(table, schema.table()))
    for name, row in table.items():
        schema.check(file, f"arguments.{name}", row, _ARGUMENT_KEYS)
        if row["default"] not in row["choices"]:
            raise SpecError(f"{file}: arguments.{name}.default must be one of its choices")
        arguments[name] = Argument(name, row["of"], row["default"], tuple(row["choices"]), row["doc"])
    return arguments


def parse(name: str, content: Mapping[str, Any]) -> Family:
    """Checks a specification's content and returns the family.

    Args:
        name: the id, which is the file's name without `.toml`.
        content: the parsed TOML.

    Raises:
        SpecError: with file, key and what is allowed.
    """
    file = f"{name}.toml"
    schema.check(file, "", content, _KEYS)
    parameters = content["parameters"]
    schema.check(file, "parameters", parameters, _PARAMETER_KEYS)
    size = len(parameters["names"])
    for key in ("units", "low", "high"):
        if len(parameters[key]) != size:
            raise SpecError(f"{file}: parameters.{key} must have {size} elements, one per name")
    if any(lo >= hi for lo, hi in zip(parameters["low"], parameters["high"], strict=True)):
        raise SpecError(f"{file}: parameters.low must be below parameters.high in every element")
    schema.check(file, "table", content["table"], _TABLE_KEYS)
    rule, seed = content["table"]["rule"], content["table"].get("seed")
    if rule.startswith("random_state") != (seed is not None):
        raise SpecError(f"{file}: table.seed belongs to the random_state rules, and only to them")
    table_splits = tuple(content["table"].get("splits", content["splits"]))
    if unknown := [name for name in table_splits if name not in content["splits"]]:
        raise SpecError(f"{file}: table.splits names {listed(unknown)}, which the family does not have")
    subsets = {}
    for subset, row in content.get("subsets", {}).items():
        schema.check(file, f"subsets.{subset}", row, _SUBSET_KEYS)
        if row["split"] not in content["splits"]:
            raise SpecError(f"{file}: subsets.{subset}.split must be one of {listed(content['splits'])}")
        subsets[subset] = (row["split"], row["count"])
    base = distributions.parse(file, "distribution", content["distribution"], size)
    schema.check(file, "splits", content["splits"], {s: schema.table(required=s != "ood") for s in SPLITS})
    splits = {}
    for split in (s for s in SPLITS if s in content["splits"]):
        row = content["splits"][split]
        schema.check(file, f"splits.{split}", row, _SPLIT_KEYS)
        own = row.get("distribution")
        distribution = (
            base if own is None else distributions.parse(file, f"splits.{split}.distribution", own, size)
        )
        splits[split] = Split(split, row["count"], distribution)
    same = content.get("train_equals_test", False)
    if same != (rule == "members"):
        raise SpecError(f"{file}: train_equals_test must be true exactly when table.rule is 'members'")
    for key, keys in (("provenance", _PROVENANCE_KEYS), ("history", _HISTORY_KEYS)):
        for i, row in enumerate(content[key]):
            schema.check(file, f"{key}[{i}]", row, keys)
    return Family(
        id=name,
        title=content["title"],
        summary=content["summary"].strip(),
        body=content["body"],
        objective=content["objective"],
        horizon=content["horizon"],
        train_equals_test=same,
        parameter_names=tuple(parameters["names"]),
        parameter_units=tuple(parameters["units"]),
        parameter_low=tuple(map(float, parameters["low"])),
        parameter_high=tuple(map(float, parameters["high"])),
        distribution=base,
        splits=splits,
        arguments=_arguments(file, content.get("arguments", {})),
        body_options=content.get("body_options", {}),
        objective_options=content.get("objective_options", {}),
        table_rule=rule,
        table_seed=seed,
        table_splits=table_splits,
        table_options=content["table"].get("options", {}),
        subsets=subsets,
        provenance=tuple(content["provenance"]),
        history=tuple(content["history"]),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a specification file.

    Raises:
        SpecError: the file is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: {error}") from error


@lru_cache(maxsize=1)
def registered_ids() -> tuple[str, ...]:
    """Returns the ids of all families, sorted."""
    return tuple(sorted(path.stem for path in tables.spec_directory().glob("*.toml")))


@cache
def _family(family_id: str) -> Family:
    return parse(family_id, read_toml(tables.spec_directory() / f"{family_id}.toml"))


def family(family_id: str) -> Family:
    """Returns a family by its id.

    Raises:
        ValueError: there is no such family; the message suggests the nearest.
    """
    if family_id not in registered_ids():
        ids: Sequence[str] = registered_ids()
        raise ValueError(
            f"there is no family {family_id!r}"
            + (suggestion(str(family_id), ids) or f" (there are: {listed(ids)})")
        )
    return _family(family_id)
