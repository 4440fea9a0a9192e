"""A family's body and objective, built and fitted to each other and to the family's task parameters.

Here the words of a specification meet the classes they name, so that what does not fit is refused with the
file and the key, before anything is simulated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies import body_class
from metarl_envs.bodies.base import Body
from metarl_envs.families.family import Family
from metarl_envs.families.schema import (
    SpecError,
    check_options,
    keyword_options,
    listed,
    number,
    suggestion,
)
from metarl_envs.simulation.costs import COST_OPTIONS, ContactCost
from metarl_envs.simulation.objectives import Objective, objective_class

Array = NDArray[np.float64]

_SHOWN_NAMES = 6
"""How many names of a long list a message holds."""


@dataclass(frozen=True)
class TaskPart:
    """The part of a task vector that a body or an objective reads.

    Attributes:
        defaults: what is read where the family's tasks do not have the parameter, `(R,)`.
        targets: which of the R values the tasks have.
        sources: in which elements of the task vector they are.
    """

    defaults: Array
    targets: tuple[int, ...]
    sources: tuple[int, ...]

    @classmethod
    def of_names(cls, wanted: Mapping[str, float | None], names: tuple[str, ...]) -> TaskPart:
        """Finds the wanted parameters among a family's; those without a default must be there."""
        targets = tuple(i for i, name in enumerate(wanted) if name in names)
        sources = tuple(names.index(name) for name in wanted if name in names)
        return cls(np.array([d or 0.0 for d in wanted.values()]), targets, sources)

    @property
    def empty(self) -> bool:
        """Whether nothing of the task is read."""
        return not self.targets

    def read(self, vectors: Array) -> Array:
        """Returns the part `(n, R)` of task vectors `(n, P)`."""
        part = np.tile(self.defaults, (len(vectors), 1))
        part[:, self.targets] = vectors[:, self.sources]
        return part


@dataclass(frozen=True)
class Assembly:
    """What a family is simulated with.

    Attributes:
        body: N copies of the robot.
        objective: the reward.
        body_part: what the body reads of a task.
        objective_part: what the objective reads of a task.
        arguments: every argument of the family's own, with its value.
        make_body: builds another such body from a number of simulations and of threads.
    """

    body: Body
    objective: Objective
    body_part: TaskPart
    objective_part: TaskPart
    arguments: Mapping[str, Any]
    make_body: Callable[[int, int], Body]


def assemble(
    family: Family,
    num: int,
    num_threads: int,
    arguments: Mapping[str, Any],
    own_arguments: tuple[str, ...] = (),
) -> Assembly:
    """Builds a family's body and objective.

    Args:
        family: the family.
        num: how many simulations.
        num_threads: threads to step on.
        arguments: the family's own arguments, unknown ones refused.
        own_arguments: what else may be given where they were, for the message of that refusal.

    Raises:
        SpecError: the specification has an option that does not exist, or one with a value that is not
            allowed, or its parameters are not those that body and objective read.
        TypeError: an argument is unknown.
        ValueError: an argument has a value that is not among its choices.
    """
    options: dict[str, dict[str, Any]] = {
        "body": dict(family.body_options),
        "objective": dict(family.objective_options),
    }
    resolved = family.resolve_arguments(arguments, own_arguments)
    for name, value in resolved.items():
        of = family.arguments[name].of
        for owner in ("body", "objective") if of == "both" else (of,):
            options[owner][name] = value
    robot = _imported(family, "body", family.body, body_class, Body)
    check_options(f"{family.id}.toml: the body {family.body!r}", keyword_options(robot), options["body"])
    make: Callable[..., Body] = robot
    make_body: Callable[[int, int], Body] = functools.partial(make, **options["body"])
    body = make_body(num, num_threads)
    if not body.reports_contact_forces:
        # The specification gives the term's weight; whether there is one is the body's to say.
        for name in ContactCost.options():
            options["objective"].pop(name, None)
    judge = _imported(family, "objective", family.objective, objective_class, Objective)
    known = keyword_options(judge) | dict.fromkeys(COST_OPTIONS, number())
    check_options(f"{family.id}.toml: the objective {family.objective!r}", known, options["objective"])
    objective = judge(**options["objective"])
    return Assembly(body, objective, *_task_parts(family, body, objective), resolved, make_body)


def _imported(
    family: Family, key: str, name: str, find: Callable[[str], type[Any]], base: type[Any]
) -> type[Any]:
    """Returns the class that a specification names.

    Raises:
        SpecError: it cannot be imported, or is no `base`.
    """
    try:
        found = find(name)
    except (ImportError, AttributeError) as error:
        if ":" not in name:
            raise  # one of this package's own: its dependencies are broken, not the specification
        raise SpecError(f"{family.id}.toml: {key} {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SpecError(f"{family.id}.toml: {key} {name!r} is not a subclass of {base.__name__}")
    return found


def _task_parts(family: Family, body: Body, objective: Objective) -> tuple[TaskPart, TaskPart]:
    """Returns what body and objective read of the family's tasks.

    Raises:
        SpecError: together they do not read exactly the family's parameters, or the objective compares
            more coordinates than the body reports.
    """
    names = family.parameter_names
    rest = {name for name in names if name not in body.task_parameters}
    form = next((form for form in objective.task_forms if set(form) == rest), None)
    needed = [name for name, default in body.task_parameters.items() if default is None]
    if form is None or not set(needed) <= set(names):
        known = (*body.task_parameters, *(name for f in objective.task_forms for name in f))
        unknown = next((name for name in names if name not in known), None)
        raise SpecError(
            f"{family.id}.toml: parameters.names must hold {_allowed(family, body, objective)};"
            f" got {_some(names)}" + ("" if unknown is None else suggestion(unknown, known))
        )
    axes = body.position().shape[1]
    if objective.task_forms[form] > axes:
        raise SpecError(
            f"{family.id}.toml: objective {family.objective!r} with {_some(form) or 'these parameters'}"
            f" compares {objective.task_forms[form]} coordinates of the motion, and the body"
            f" {family.body!r} reports {axes}; choose another objective or other parameters.names"
        )
    return (
        TaskPart.of_names(body.task_parameters, names),
        TaskPart.of_names(dict.fromkeys(form), names),
    )


def _allowed(family: Family, body: Body, objective: Objective) -> str:
    """Returns which parameter names body and objective read, in words."""
    forms = " or ".join(_some(form) or "nothing" for form in objective.task_forms)
    text = f"{forms} for the objective {family.objective!r}"
    needed = [name for name, default in body.task_parameters.items() if default is None]
    free = [name for name, default in body.task_parameters.items() if default is not None]
    if needed:
        text += f", and {_some(needed)} for the body {family.body!r}"
    if free:
        text += f", and any of {_some(free)} for the body {family.body!r}"
    return text


def _some(names: tuple[str, ...] | list[str]) -> str:
    """Returns names for a message, a long list cut."""
    if len(names) <= _SHOWN_NAMES:
        return listed(names)
    return f"{listed(names[:_SHOWN_NAMES])}, ... ({len(names)} names)"
