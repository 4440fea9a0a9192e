"""What the contract tests share: the registry as test parameters, rollouts, equality bit for bit."""

import functools
import itertools

import gymnasium
import numpy as np
import pytest
from representatives import (
    BODY_IDS,
    DISCRETE_IDS,
    DYNAMICS_IDS,
    ENGINE_IDS,
    IDS,
    KIND_IDS,
    MUJOCO_IDS,
    PLACED_IDS,
    ids_with,
)

import metarl_envs

__all__ = [
    "BODY_IDS",
    "DISCRETE_IDS",
    "DYNAMICS_IDS",
    "ENGINE_IDS",
    "IDS",
    "KIND_IDS",
    "MUJOCO_IDS",
    "PLACED_IDS",
]

FRAME = 120
"""Height and width of frames in tests without the mark `full_frames`, in pixels; see `conftest.py`."""


def _variants():
    for family_id in IDS:
        yield pytest.param(family_id, {}, id=family_id)
        for argument in metarl_envs.family(family_id).arguments.values():
            for choice in argument.choices:
                if choice != argument.default:
                    yield pytest.param(
                        family_id, {argument.name: choice}, id=f"{family_id}-{argument.name}={choice}"
                    )


VARIANTS = list(_variants())
"""Every id with its defaults, and with every other choice of each of its own arguments."""

BODY_VARIANTS = [v for v in VARIANTS if v.values[0] in BODY_IDS]
KIND_VARIANTS = [v for v in VARIANTS if v.values[0] in KIND_IDS and not v.values[1]]
"""One id per kind of family, with its defaults."""
SPAWN_IDS = ENGINE_IDS[-2:]
"""Without a model, and with varied models; a spawned process takes seconds to import everything."""

# What others represent runs under the marker `slow`, so that the whole product stays available. A new id
# is in every `each_id` and `each_variant` by itself, and in the others where it is the first of its body
# or kind.
each_id = pytest.mark.parametrize("family_id", IDS)
each_variant = pytest.mark.parametrize(("family_id", "arguments"), VARIANTS)
each_mujoco_id = pytest.mark.parametrize("family_id", MUJOCO_IDS)
each_body = pytest.mark.parametrize("family_id", ids_with(BODY_IDS))
each_mujoco_body = pytest.mark.parametrize("family_id", ids_with(BODY_IDS, MUJOCO_IDS))
each_kind = pytest.mark.parametrize("family_id", ids_with(KIND_IDS))
each_engine = pytest.mark.parametrize("family_id", ids_with(ENGINE_IDS))
each_mujoco_engine = pytest.mark.parametrize("family_id", ids_with(ENGINE_IDS, MUJOCO_IDS))


def slow_unless(represents, *others, variants=VARIANTS):
    """Parameters of every variant with every combination of others; those not represented are `slow`.

    Args:
        represents: whether (family id, arguments, one value of each of the others) runs by default.
        others: the values of each further parameter.
        variants: the ids with their arguments.
    """
    return [
        pytest.param(
            *v.values,
            *values,
            id="-".join((v.id, *map(str, values))),
            marks=() if represents(*v.values, *values) else pytest.mark.slow,
        )
        for v in variants
        for values in itertools.product(*others)
    ]


each_body_variant = pytest.mark.parametrize(
    ("family_id", "arguments"), slow_unless(lambda i, arguments: i in BODY_IDS)
)
each_plain_body = pytest.mark.parametrize(
    ("family_id", "arguments"),
    slow_unless(lambda i, arguments: i in BODY_IDS and not arguments),
)
"""One id per body with its defaults; all other ids and arguments are `slow`."""


def difference(a, b, where="value"):
    """Returns where two nested results differ in value, type, dtype or shape, or None: bit for bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            return f"{where}: {type(a)} against {type(b)}"
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{where}: {a.dtype}{a.shape} against {b.dtype}{b.shape}"
        if a.dtype == object:
            found = (difference(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
            return next((f for f in found if f), None)
        return None if a.tobytes() == b.tobytes() else f"{where}: {a} against {b}"
    if isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            return f"{where}: keys {sorted(set(a) ^ set(b))} are in one only"
        return next((f for f in (difference(a[k], b[k], f"{where}.{k}") for k in a) if f), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if type(a) is not type(b) or len(a) != len(b):
            return f"{where}: {type(a)}({len(a)}) against {type(b)}({len(b)})"
        found = (difference(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((f for f in found if f), None)
    if type(a) is not type(b):
        return f"{where}: {type(a)} against {type(b)}"
    if isinstance(a, float):
        return None if np.float64(a).tobytes() == np.float64(b).tobytes() else f"{where}: {a!r} against {b!r}"
    return None if a == b else f"{where}: {a!r} against {b!r}"


def assert_same(a, b):
    assert (found := difference(a, b)) is None, found


def leaves(value, where="value"):
    """Yields every array and number of a nested result with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{where}[{i}]")
    elif isinstance(value, np.ndarray) and value.dtype == object:
        yield from leaves(list(value), where)
    elif value is not None:
        yield where, value


def assert_finite(result):
    for where, value in leaves(result):
        assert np.isfinite(value).all(), f"{where} = {value}"


def random_actions(env, steps, seed=0, scale=1.2):
    """Random actions `(steps, ...)`, some of them beyond the bounds, where they are clipped."""
    shape = (steps, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(-scale, scale, shape).astype(np.float32)


def rollout(env, actions, seed=None, reset=True):
    """Everything a reset and the steps return, as a list; a single episode that terminates is restarted."""
    results = [env.reset(seed=seed)] if reset else []
    for action in actions:
        results.append(env.step(action))
        if results[-1][2] is True:
            results.append(env.reset())
    return results


def make_native(family_id, num_envs, **arguments):
    return gymnasium.make_vec(
        family_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **arguments
    )


def single_factories(family_id, tasks, **arguments):
    """One picklable maker of a wrapped single environment per task."""
    return [functools.partial(gymnasium.make, family_id, task=task, **arguments) for task in tasks]


def some_tasks(family_id, num, split="train"):
    """`num` tasks that are not in the table's order, so that a default order cannot pass for them."""
    tasks = metarl_envs.family(family_id).tasks(split)
    return [tasks[(3 * i + 1) % len(tasks)] for i in range(num)]
