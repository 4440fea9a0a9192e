"""Which ids stand for the others, for the tests of what ids share and for `--fast`."""

from collections.abc import Callable, Hashable

import pytest

import metarl_envs
from metarl_envs.bodies import body_class
from metarl_envs.simulation.headless import prefer_headless_rendering

# Bodies import MuJoCo below, and it chooses its backend when imported.
prefer_headless_rendering()

IDS = metarl_envs.registered_ids()
DYNAMICS_IDS = tuple(i for i in IDS if i.split("-")[1] in ("Params", "LowFriction", "Crippled"))
"""Families whose tasks have physics of their own."""
PLACED_IDS = tuple(i for i in IDS if metarl_envs.family(i).body == "move_box_ball")
"""Families whose tasks say where something starts, so that they are seen from the first observation."""
DISCRETE_IDS = tuple(i for i in IDS if metarl_envs.family(i).train_equals_test)


def _uses_mujoco(family_id: str) -> bool:
    bases = body_class(metarl_envs.family(family_id).body).__mro__
    return "MujocoBody" in [base.__name__ for base in bases]


MUJOCO_IDS = tuple(i for i in IDS if _uses_mujoco(i))


def first_of_each(key: Callable[[str], Hashable]) -> tuple[str, ...]:
    """The first id of each group of ids with the same key."""
    return tuple(sorted({key(i): i for i in reversed(IDS)}.values()))


def _kind(family_id: str) -> Hashable:
    """What code that all ids share can tell of an id."""
    family = metarl_envs.family(family_id)
    groups = (MUJOCO_IDS, DYNAMICS_IDS, PLACED_IDS, DISCRETE_IDS)
    return (*(family_id in group for group in groups), bool(family.fixed_starts))


BODY_IDS = first_of_each(lambda i: metarl_envs.family(i).body)
"""One id per body, for what depends on the body alone."""
KIND_IDS = first_of_each(_kind)
"""One id per kind of family, for code that all ids share."""
ENGINE_IDS = first_of_each(
    lambda i: (i in MUJOCO_IDS, "Params" in i, metarl_envs.family(i).objective == "on_target")
)
"""One id per way to simulate (no model, a model, varied models, a composed one), for costly tests."""


def ids_with(representatives: tuple[str, ...], among: tuple[str, ...] = IDS) -> list[object]:
    """Parameters over `among`; those that others represent run under the marker `slow`."""
    return [pytest.param(i, marks=() if i in representatives else pytest.mark.slow) for i in among]
