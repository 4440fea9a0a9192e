"""Contract 4, 5 and 6: observations, infos, rewards, ends, and the model they come from."""

import itertools
import subprocess
import sys
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from contract_helpers import (
    BODY_IDS,
    DYNAMICS_IDS,
    PLACED_IDS,
    assert_same,
    difference,
    each_body_variant,
    each_id,
    each_mujoco_id,
    each_variant,
    leaves,
    make_native,
    random_actions,
    rollout,
    slow_unless,
    some_tasks,
)

import metarl_envs
from metarl_envs.bodies.rllab import ShortBody
from metarl_envs.families import models, tables


@pytest.mark.parametrize(
    ("family_id", "arguments", "observe_task"),
    slow_unless(
        lambda i, arguments, observed: not observed or (i in BODY_IDS and not arguments), (False, True)
    ),
)
def test_observations_are_float32_inside_the_space(family_id, arguments, observe_task):
    env = metarl_envs.MetaEnv(family_id, observe_task=observe_task, **arguments)
    assert env.observation_space.dtype == np.float32
    assert np.isfinite(env.observation_space.low).all()
    assert np.isfinite(env.observation_space.high).all()
    assert env.action_space == gymnasium.spaces.Box(-1, 1, env.action_space.shape, np.float32)
    for result in rollout(env, random_actions(env, 30), seed=0):
        assert result[0].dtype == np.float32
        assert env.observation_space.contains(result[0])
    envs = make_native(family_id, 3, observe_task=observe_task, max_episode_steps=7, **arguments)
    assert envs.single_observation_space == env.observation_space
    assert envs.single_action_space == env.action_space
    for result in rollout(envs, random_actions(envs, 30), seed=0):
        assert result[0].dtype == np.float32
        assert envs.observation_space.contains(result[0])


def _spoil(value):
    """Overwrites every array in a nested result, and empties every dict."""
    for _, array in leaves(value):
        if isinstance(array, np.ndarray):
            assert array.flags.writeable
            array[...] = 1 if array.dtype == bool else 99
    infos = [v for v in (value if isinstance(value, tuple) else [value]) if isinstance(v, dict)]
    for info in infos:
        info.clear()


@each_body_variant
def test_returned_arrays_are_fresh(family_id, arguments):
    """What a caller does to a returned array changes nothing the environment returns later."""
    env, twin = (metarl_envs.MetaEnv(family_id, observe_task=True, **arguments) for _ in range(2))
    actions = random_actions(env, 6)
    for i in range(2):
        results = [e.reset(seed=i) for e in (env, twin)]
        for action in (*actions, None):
            assert_same(*results)
            _spoil(results[0])
            _spoil(env.get_state())
            _spoil([env.get_task().vector, env.unwrapped.family.task_space.low])
            if action is not None:
                given = action.astype(np.float64)
                results = [env.step(given), twin.step(action.astype(np.float64))]
                given[:] = 99.0


@pytest.mark.long
@pytest.mark.parametrize(
    ("family_id", "arguments", "mode"),
    slow_unless(
        lambda i, arguments, mode: i in BODY_IDS and (mode == "NextStep" or not arguments),
        ("NextStep", "SameStep"),
    ),
)
def test_returned_vector_arrays_are_fresh(family_id, arguments, mode):
    envs, twin = (
        make_native(family_id, 3, observe_task=True, max_episode_steps=4, autoreset_mode=mode, **arguments)
        for _ in range(2)
    )
    given = np.ones(3, dtype=bool)
    results = [envs.reset(seed=0, options={"reset_mask": given}), twin.reset(seed=0)]
    rng = np.random.default_rng(0)
    for i, action in enumerate(random_actions(envs, 16).astype(np.float64)):
        assert_same(*results)
        # Whatever went in or came out is overwritten, in this environment and not in its twin.
        given[:] = ~given
        _spoil(results[0])
        _spoil(envs.get_state())
        # Full steps, and partial ones, which repeat observations.
        mask = None if i % 3 < 2 else rng.random(3) < 0.5
        given = np.ones(3, dtype=bool) if mask is None else mask.copy()
        mine = action.copy()
        results = [
            envs.step(mine, None if mask is None else given),
            twin.step(action, None if mask is None else mask.copy()),
        ]
        mine[:] = 99.0


@each_body_variant
def test_values_of_one_result_do_not_share_memory(family_id, arguments):
    """Writing to one value of a result changes no other; only the masks of one info are one array."""
    envs = make_native(family_id, 3, **arguments)
    for result in rollout(envs, random_actions(envs, 2), seed=0):
        arrays = [(where, a) for where, a in leaves(result) if isinstance(a, np.ndarray)]
        for i, (where, a) in enumerate(arrays):
            for other, b in arrays[:i]:
                both_masks = "._" in where and "._" in other
                assert both_masks or not np.shares_memory(a, b), f"{where} and {other} are the same memory"


@each_variant
def test_the_task_is_observed_only_on_request(family_id, arguments):
    family = metarl_envs.family(family_id)
    tasks = some_tasks(family_id, 2)
    assert tasks[0].parameters != tasks[1].parameters
    blind = [metarl_envs.MetaEnv(family_id, task=task, **arguments) for task in tasks]
    seeing = [metarl_envs.MetaEnv(family_id, task=task, observe_task=True, **arguments) for task in tasks]
    size = blind[0].observation_space.shape[0]
    assert seeing[0].observation_space.shape == (size + len(family.parameter_names),)
    actions = random_actions(blind[0], 10)
    a, b = (rollout(env, actions, seed=3) for env in blind)
    # Where tasks are physics, what follows the start may show them, and where they are places, the start.
    shown = 0 if family_id in PLACED_IDS else 1 if family_id in DYNAMICS_IDS else len(a)
    assert_same([r[0] for r in a[:shown]], [r[0] for r in b[:shown]])
    for task, env in zip(tasks, seeing, strict=True):
        for result, plain in zip(rollout(env, actions, seed=3), a, strict=False):
            assert task != tasks[0] or difference(result[0][:size], plain[0]) is None
            assert_same(result[0][size:], task.vector.astype(np.float32))


@each_id
def test_a_changed_task_is_observed_from_the_next_step(family_id):
    first, second = some_tasks(family_id, 2)
    size = metarl_envs.MetaEnv(family_id).observation_space.shape[0]
    env = metarl_envs.MetaEnv(family_id, task=first, observe_task=True)
    env.reset(seed=0)
    env.set_task(second)
    seen = env.step(random_actions(env, 1)[0])[0][size:]
    assert_same(seen, second.vector.astype(np.float32))
    envs = make_native(family_id, 2, task=first, observe_task=True)
    envs.reset(seed=0)
    envs.set_tasks(second, mask=np.array([False, True]))
    # A simulation that is masked out repeats its observation, with the task it now has.
    seen = envs.step(random_actions(envs, 1)[0], np.array([True, False]))[0][:, size:]
    assert_same(seen, np.stack([first.vector, second.vector]).astype(np.float32))


@each_variant
def test_info_is_flat_with_the_same_keys_everywhere(family_id, arguments):
    env = metarl_envs.MetaEnv(family_id, **arguments)
    results = rollout(env, random_actions(env, 10), seed=0)
    keys = set(results[0][-1])
    assert {"task_id", "success", "diverged"} <= keys
    assert any(key.startswith("reward_") for key in keys)
    for result in results:
        info = result[-1]
        assert set(info) == keys
        assert type(info["task_id"]) is int
        assert type(info["success"]) is bool
        assert type(info["diverged"]) is bool
        others = keys - {"task_id", "success", "diverged"}
        assert {type(info[key]) for key in others} == {float}
        assert not info["diverged"]


@pytest.mark.long
@each_variant
def test_reward_terms_sum_to_the_reward(family_id, arguments):
    envs = make_native(family_id, 4, max_episode_steps=20, **arguments)
    results = rollout(envs, random_actions(envs, 45), seed=0)
    terms = [key for key in results[0][1] if key.startswith("reward_")]
    assert all((results[0][1][key] == 0.0).all() for key in terms)
    seen = np.zeros(4, dtype=bool)
    for _, reward, _, _, info in results[1:]:
        assert reward.dtype == np.float64
        np.testing.assert_allclose(sum(info[key] for key in terms), reward, rtol=0.0, atol=1e-12)
        seen |= reward != 0.0
    assert seen.any() or arguments.get("reward", "sparse") == "sparse"
    env = metarl_envs.MetaEnv(family_id, **arguments)
    steps = [r for r in rollout(env, random_actions(env, 20), seed=0) if len(r) == 5]
    for _, reward, _, _, info in steps:
        assert type(reward) is float
        assert sum(info[key] for key in terms) == pytest.approx(reward, rel=0.0, abs=1e-12)


@each_variant
def test_vector_info_has_an_array_and_a_mask_per_key(family_id, arguments):
    envs = make_native(family_id, 3, max_episode_steps=4, **arguments)
    single = metarl_envs.MetaEnv(family_id, **arguments).reset(seed=0)[1]
    kinds = {int: np.int64, float: np.float64, bool: np.bool_}
    for result in rollout(envs, random_actions(envs, 9), seed=0):
        info = result[-1]
        assert set(info) == set(single) | {f"_{key}" for key in single}
        for key, value in single.items():
            assert info[key].shape == (3,)
            assert info[key].dtype == kinds[type(value)]
            assert_same(info[f"_{key}"], np.ones(3, dtype=bool))
        assert [array.dtype for array in result[1:-1]] in ([], [np.float64, np.bool_, np.bool_])


@each_mujoco_id
def test_positions_and_velocities_agree(family_id):
    """The velocity is the difference of positions over the step, as in Gymnasium's v5."""
    env = metarl_envs.MetaEnv(family_id)
    if isinstance(env._core.body, ShortBody):
        return  # theirs is the measured velocity of the centre of mass; test_family_physics.py compares it
    dt = env._core.body.dt
    results = rollout(env, random_actions(env, 20), seed=0)
    for before, after in itertools.pairwise(results):
        if len(after) != 5:
            continue  # a restart
        for axis in ("x", "y"):
            if f"{axis}_velocity" in after[-1]:
                moved = after[-1][f"{axis}_position"] - before[-1][f"{axis}_position"]
                assert after[-1][f"{axis}_velocity"] == pytest.approx(moved / dt, rel=0.0, abs=1e-9)


@each_mujoco_id
def test_the_recorded_checksum_is_the_models(family_id):
    recorded = tables.checksums(metarl_envs.family(family_id).directory)["models"][family_id]
    assert "3.17" in recorded
    version = ".".join(mujoco.__version__.split(".")[:2])
    env, envs = metarl_envs.MetaEnv(family_id), metarl_envs.MetaVectorEnv(family_id, 2)
    assert recorded[version] == env.model_checksum() == envs.model_checksum()
    assert models.recorded_checksum(metarl_envs.family(family_id)) == recorded[version]


@each_mujoco_id
def test_every_model_of_a_family_has_a_checksum_of_its_own(family_id):
    family = metarl_envs.family(family_id)
    found = {}
    for arguments in models.variants(family):
        checksum = metarl_envs.MetaEnv(family_id, **arguments).model_checksum()
        assert models.recorded_checksum(family, arguments) == checksum
        found[models.record_key(family, arguments)] = checksum
    assert len(set(found.values())) == len(found)
    recorded = tables.checksums(metarl_envs.family(family_id).directory)["models"][family_id]
    versions = {key.split()[0] for key in recorded}
    assert set(recorded) == {f"{v}{key.removeprefix(version())}" for v in versions for key in found}
    # An argument that the model does not depend on has no model of its own.
    for argument in family.arguments.values():
        if not argument.changes_model:
            for choice in argument.choices:
                assert models.recorded_checksum(family, {argument.name: choice}) == found[version()]


def version():
    return models.mujoco_minor_version()


@each_mujoco_id
def test_checksum_sees_physics_and_not_looks(family_id):
    model = metarl_envs.MetaEnv(family_id)._core.body.model
    frozen = models.model_checksum(model)
    model.geom_rgba[:] = 0.5
    model.vis.global_.offwidth = 123
    assert models.model_checksum(model) == frozen
    seen = {frozen}
    for change in (
        lambda: model.opt.gravity.__setitem__(2, -9.0),
        lambda: model.body_mass.__setitem__(1, model.body_mass[1] * 1.001),
        lambda: model.geom_friction.__setitem__((0, 0), 0.3),
        lambda: model.actuator_gear.__setitem__((0, 0), 1.5),
        lambda: model.dof_damping.__setitem__(-1, 7.0),
        lambda: setattr(model.opt, "timestep", model.opt.timestep / 2),
        lambda: setattr(model.opt, "integrator", mujoco.mjtIntegrator.mjINT_IMPLICITFAST),
        lambda: model.qpos0.__setitem__(0, 0.5),
    ):
        change()
        seen.add(models.model_checksum(model))
    assert len(seen) == 9


@each_mujoco_id
def test_a_changed_model_warns_exactly_once(family_id, monkeypatch):
    monkeypatch.setattr(models, "_checked", set())
    monkeypatch.setattr(models, "recorded_checksum", lambda family, arguments: "0" * 64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metarl_envs.MetaEnv(family_id)
        metarl_envs.MetaEnv(family_id)
        metarl_envs.MetaVectorEnv(family_id, 2)
    about = [w for w in caught if "model" in str(w.message)]
    assert len(about) == 1
    assert family_id in str(about[0].message)


@pytest.mark.process
def test_a_genuine_model_does_not_warn():
    code = (
        "import metarl_envs\n"
        "for i in metarl_envs.registered_ids():\n"
        "    metarl_envs.MetaVectorEnv(i, 2).reset(seed=0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
