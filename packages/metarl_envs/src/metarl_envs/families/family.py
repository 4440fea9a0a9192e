"""Families: specifications as objects, with the tasks of their frozen tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from metarl_envs.families import tables
from metarl_envs.families.distributions import Distribution
from metarl_envs.families.schema import listed, suggestion
from metarl_envs.families.tables import Split
from metarl_envs.families.task import OFF_TABLE, Task


@dataclass(frozen=True)
class Subset:
    """A named subset: the first `count` tasks of a split."""

    split: str
    count: int
    doc: str


@dataclass(frozen=True)
class Argument:
    """A keyword argument of a family: the part that it belongs to, and its allowed values.

    `changes_model` says whether the compiled model depends on it; if so, each value has a checksum.
    """

    name: str
    of: str
    default: Any
    choices: tuple[Any, ...]
    doc: str
    changes_model: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Family:
    """A set of tasks with one body and one objective, defined by a specification file.

    Attributes:
        id: the Gymnasium id, with its version; also the specification's file name.
        directory: where that file, the frozen tables and their checksums are.
        title: one line.
        summary: a paragraph for the documentation page.
        body: name of the body in `metarl_envs.bodies`, or where its class is, as `package.module:Class`.
        objective: name of the objective in `metarl_envs.simulation.objectives`, or where its class is.
        horizon: the time limit in steps.
        train_equals_test: whether train and test contain the same tasks, which is necessary if a family
            has only two.
        fixed_starts: the splits in which every episode of a task has the same initial state.
        parameter_names: the task parameters' names, P of them.
        parameter_units: their units.
        distribution: distribution of train, validation and test.
        splits: name -> `Split`, in the order train, validation, test, ood.
        arguments: name -> keyword `Argument` of the family.
        body_options: keyword options of the body.
        objective_options: keyword options of the objective.
        table_rule: the rule in `metarl_envs.families.tables` that derives the frozen tables.
        table_seed: the seed of that rule, or None.
        table_splits: the splits that the rule derives, in order; the others are drawn by `philox`.
        table_options: further numbers of the rule.
        subsets: name -> `Subset` of a split.
        provenance: rows of the provenance table (`variant`, `same`, `differs`).
        history: rows of the version history (`version`, `change`, and `released` once it is).
        definition: section of the specification -> its checksum (`metarl_envs.families.definition`).
    """

    id: str
    directory: Path
    title: str
    summary: str
    body: str
    objective: str
    horizon: int
    train_equals_test: bool
    fixed_starts: tuple[str, ...]
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
    subsets: Mapping[str, Subset]
    provenance: tuple[Mapping[str, str], ...]
    history: tuple[Mapping[str, str], ...]
    definition: Mapping[str, str]

    def __repr__(self) -> str:
        tasks = " / ".join(f"{split.count} {split.name}" for split in self.splits.values())
        return f"<Family {self.id}: {self.body}, {self.objective}, {tasks} tasks>"

    @property
    def released(self) -> str | None:
        """The release that first contained this version of the family, by its history, or None for none."""
        version = self.id.rpartition("-")[2]
        rows = (row for row in self.history if row["version"] == version)
        return next((row["released"] for row in rows if "released" in row), None)

    @property
    def task_space(self) -> Box:
        """The smallest box that contains every task of every split, float64 `(P,)`."""
        return Box(np.array(self.parameter_low), np.array(self.parameter_high), dtype=np.float64)

    @cached_property
    def _tasks(self) -> dict[str, tuple[Task, ...]]:
        return {
            name: tuple(Task(self.id, name, i, tuple(row)) for i, row in enumerate(rows.tolist()))
            for name, rows in tables.load(self).items()
        }

    def split(self, name: str) -> Split:
        """Returns a split.

        Raises:
            ValueError: the family has no such split.
        """
        if name not in self.splits:
            if name == "validation" and self.train_equals_test:
                raise ValueError(
                    f"{self.id} has no validation tasks: all its tasks are in both train and test"
                    f" (its splits are {listed(self.splits)})"
                )
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
        subset = self.subsets[name]
        return self.tasks(subset.split)[: subset.count]

    def task(self, split: str, index: int) -> Task:
        """Returns one frozen task.

        Raises:
            ValueError: there is no such split, or the index is out of range.
        """
        tasks = self.tasks(split)
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise ValueError(f"a task index must be an integer, got {index!r}")
        if not 0 <= index < len(tasks):
            raise ValueError(
                f"task index {index} is out of range: {self.id} has {len(tasks)} {split} tasks,"
                f" numbered 0 to {len(tasks) - 1}"
            )
        return tasks[int(index)]

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> tuple[Task, ...]:
        """Draws tasks that are not in the table, from the split's distribution.

        Args:
            n: number of tasks.
            rng: the generator to draw from.
            split: the split whose distribution is used.

        Returns:
            `n` tasks with index -1; of a discrete family, `n` tasks of its table.

        Raises:
            ValueError: `n` is negative or the family has no such split.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"the number of tasks must be a whole number of at least 0, got {n!r}")
        distribution = self.split(split).distribution
        rows = distribution.sample(n, rng)
        if distribution.discrete:
            members = {task.parameters: task for task in self.tasks(split)}
            return tuple(members[tuple(row)] for row in rows.tolist())
        return tuple(Task(self.id, split, OFF_TABLE, tuple(row)) for row in rows.tolist())

    def resolve_task(self, task: Any, split: str) -> Task:
        """Converts an index, a `Task` or a task's dict to a `Task` of this family.

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
                    f" {task.index}; a task with other parameters must have index {OFF_TABLE}"
                )
            return task
        self.split(task.split)
        vector = task.vector
        if vector.shape != self.task_space.shape or not np.isfinite(vector).all():
            raise ValueError(
                f"a task of {self.id} has {len(self.parameter_names)} finite parameters"
                f" ({', '.join(self.parameter_names)}), got {task.parameters}"
            )
        low, high = self.task_space.low, self.task_space.high
        if (vector < low).any() or (vector > high).any():
            raise ValueError(
                f"the parameters of a task of {self.id} ({', '.join(self.parameter_names)}) must be from"
                f" {low.tolist()} to {high.tolist()}, got {list(task.parameters)}"
            )
        return task

    def resolve_arguments(self, given: Mapping[str, Any], others: tuple[str, ...] = ()) -> dict[str, Any]:
        """Adds the defaults of the family's keyword arguments.

        Args:
            given: the arguments that were given.
            others: other arguments that are allowed there, for the message.

        Raises:
            TypeError: an argument is unknown.
            ValueError: an argument has a value that is not among its choices.
        """
        values = {name: argument.default for name, argument in self.arguments.items()}
        for name, value in given.items():
            if name not in self.arguments:
                allowed = (*others, *self.arguments)
                raise TypeError(
                    f"{self.id} got an unexpected keyword argument {name!r} (allowed: {listed(allowed)})"
                    + suggestion(name, allowed)
                )
            choices = self.arguments[name].choices
            if value not in choices:
                raise ValueError(
                    f"{name} of {self.id} must be one of {', '.join(map(repr, choices))}, got {value!r}"
                )
            values[name] = value
        return values
