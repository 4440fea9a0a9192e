"""Freezing a family's task tables and compiled models, checking what is frozen, and undoing it.

Freezing checks everything before it writes anything, so that a refused family leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.core import Core, build_core
from metarl_envs.families import models, tables
from metarl_envs.families.family import Family
from metarl_envs.families.schema import SpecError
from metarl_envs.families.task import OFF_TABLE, Task


def problems(family: Family) -> list[str]:
    """Returns what is wrong with a family's frozen parts; empty when they hold.

    Raises:
        SpecError: a table is missing, or is not the one that was frozen.
    """
    found = []
    frozen, derived = tables.load(family), tables.derive(family)
    for name, rows in frozen.items():
        # Sines and cosines may differ between machines in the last digit; the checksum, which load()
        # has compared, guards the digits.
        if not np.allclose(rows, derived[name], rtol=0.0, atol=1e-12):
            found.append(f"the {name} table is not the one derived from the specification")
    found += tables.faults(family, frozen)
    for arguments in models.variants(family):
        checksum = build_core(family, **arguments).model_checksum()
        if checksum is not None and models.recorded_checksum(family, arguments) not in (None, checksum):
            found.append(
                "the compiled model is not the one recorded for MuJoCo"
                f" {models.record_key(family, arguments)}"
            )
    return found


def freeze(family: Family) -> tuple[str, ...]:
    """Writes the tables of a new family or a new split, and records the checksums of tables and models.

    Before that, the family is built and stepped with every choice of every argument, and its tables are
    derived and compared.

    Returns:
        The splits that were frozen now.

    Raises:
        SpecError: the specification does not fit its body or objective, tasks are outside their
            distribution or the box of the parameters, splits share tasks, or everything is frozen already.
    """
    first = tables.derive(family)["train"][0]
    choices = [{a.name: choice} for a in family.arguments.values() for choice in a.choices]
    compiled = {}
    for arguments in ({}, *choices):
        checksum = _tried_model(family, first, arguments)
        if checksum is not None and models.recorded_checksum(family, arguments) is None:
            compiled[models.record_key(family, arguments)] = checksum
    new = tables.freeze(family)
    tables.record_checksums(family, "models", compiled)
    return new


def _tried_model(family: Family, first: NDArray[np.float64], arguments: Mapping[str, Any]) -> str | None:
    """Runs one simulation for a step and returns its model's checksum, if it has a model."""
    task = Task(family.id, "train", OFF_TABLE, tuple(first.tolist()))
    core = Core(family, 1, tasks=[task], observe_task=False, num_threads=1, arguments=arguments)
    core.generators = [np.random.default_rng(0)]
    core.reset()
    core.step(np.zeros((1, *core.action_space.shape)))
    checksum = core.model_checksum()
    core.close()
    return checksum


def unfreeze(family: Family) -> None:
    """Removes the frozen tables and the checksums of a family that has not been released.

    Raises:
        SpecError: the family has been released, or is not frozen.
    """
    if family.released is not None:
        raise SpecError(
            f"{family.id} was released in {family.released}, so it stays frozen; a changed definition is a"
            " new version of the id"
        )
    tables.unfreeze(family)
