"""Contract 9, divergence: an unstable simulation ends its own episode, and no NaN ever leaves."""

import warnings

import numpy as np
import pytest
from contract_helpers import (
    BODY_IDS,
    ENGINE_IDS,
    MUJOCO_IDS,
    assert_finite,
    assert_same,
    each_id,
    make_native,
    random_actions,
    rollout,
    single_factories,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metarl_envs

HOWS = (
    "nan velocity",
    "huge velocity",
    "nan position",
    "infinite position",
    "huge position",
    "through state",
)
VARIANTS = [
    pytest.param(i, {**a, "observe_task": True}, id=f"{i}-{n}")
    for i in MUJOCO_IDS
    for n, a in [("default", {})]
    + [
        (f"{argument.name}={choice}", {argument.name: choice})
        for argument in metarl_envs.family(i).arguments.values()
        for choice in argument.choices
        if choice != argument.default
    ]
]
PLAIN_BODIES = [v for v in VARIANTS if v.values[0] in BODY_IDS and set(v.values[1]) == {"observe_task"}]


def _parameters(*rows):
    """Parameters of (variant, others ..., whether it runs by default)."""
    return [
        pytest.param(
            *v.values, *others, id="-".join((v.id, *others)), marks=() if default else pytest.mark.slow
        )
        for v, *others, default in rows
    ]


each_mujoco_body = pytest.mark.parametrize(
    ("family_id", "arguments"), _parameters(*((v, v in PLAIN_BODIES) for v in VARIANTS))
)
"""One id per body with its defaults; all other ids and arguments are `slow`."""
each_mujoco_body_and_how = pytest.mark.parametrize(
    ("family_id", "arguments", "how"),
    _parameters(
        *(
            (
                v,
                how,
                v.values[0] in BODY_IDS
                and (how == HOWS[0] or (v.values[0] in ENGINE_IDS and v in PLAIN_BODIES)),
            )
            for v in VARIANTS
            for how in HOWS
        )
    ),
)
"""One id per body with every argument in one way, one per kind of engine in all ways; others are `slow`."""


def _break(env, index, how):
    """Makes simulation `index` unstable."""
    if how == "through state":
        state = env.get_state()
        state["physics"][index, 1] = 1e13  # after the time comes the first position
        env.set_state(state)
        return
    engine = env._core.body.engine
    rows = engine.qpos if "position" in how else engine.qvel
    rows[index, -1] = {"nan": np.nan, "huge": 1e13, "infinite": np.inf}[how.split()[0]]


def _row(result, i):
    """Row i of a vector result."""
    return [
        {k: v[i] for k, v in part.items() if not k.startswith("_")} if isinstance(part, dict) else part[i]
        for part in result
    ]


@pytest.mark.long
@each_mujoco_body_and_how
def test_one_simulation_diverges_alone(family_id, arguments, how):
    envs, twin = (make_native(family_id, 4, num_threads=2, **arguments) for _ in range(2))
    actions = random_actions(envs, 9)
    before = rollout(envs, actions[:3], seed=0)
    assert_same(before, rollout(twin, actions[:3], seed=0))
    _break(envs, 2, how)
    result, calm = envs.step(actions[3]), twin.step(actions[3])
    assert_finite(result)
    assert result[4]["diverged"].tolist() == [False, False, True, False]
    assert result[2][2]
    assert not result[3].any()
    assert not result[4]["success"][2]
    # What it shows is its last sound state.
    assert_same(result[0][2], before[-1][0][2])
    for key in ("x_position", "y_position"):
        if key in result[4] and how != "through state":
            assert result[4][key][2] == before[-1][4][key][2]
    terms = sum(v[2] for k, v in result[4].items() if k.startswith("reward_"))
    assert terms == result[1][2]
    for i in (0, 1, 3):
        assert_same(_row(result, i), _row(calm, i))
    # The next step resets it; it goes on like any episode while the others never noticed.
    for k, action in enumerate(actions[4:]):
        result, calm = envs.step(action), twin.step(action)
        assert_finite(result)
        assert envs.observation_space.contains(result[0])
        assert not result[4]["diverged"].any()
        assert k > 0 or (result[1][2] == 0.0 and not result[2][2])
        for i in (0, 1, 3):
            assert_same(_row(result, i), _row(calm, i))
    others = np.array([0, 1, 3])
    assert_same(envs.get_state()["elapsed"][others], twin.get_state()["elapsed"][others])


@each_mujoco_body_and_how
def test_single_environments_diverge(family_id, arguments, how):
    env = metarl_envs.MetaEnv(family_id, **arguments)
    fresh = metarl_envs.MetaEnv(family_id, **arguments)
    actions = random_actions(env, 6)
    rollout(env, actions[:3], seed=0)
    _break(env, 0, how)
    observation, reward, terminated, truncated, info = env.step(actions[3])
    assert (terminated, truncated, info["diverged"], info["success"]) == (True, False, True, False)
    assert_finite((observation, reward, info))
    with pytest.raises(RuntimeError, match="reset"):
        env.step(actions[4])
    assert_same(rollout(env, actions, seed=4), rollout(fresh, actions, seed=4))


@pytest.mark.long
@each_mujoco_body_and_how
def test_a_vector_of_one_diverges(family_id, arguments, how):
    envs = make_native(family_id, 1, **arguments)
    single = metarl_envs.MetaEnv(family_id, **arguments)
    actions = random_actions(envs, 8)
    rollout(envs, actions[:3], seed=0)
    rollout(single, actions[:3, 0], seed=0)
    _break(envs, 0, how)
    _break(single, 0, how)
    result, alone = envs.step(actions[3]), single.step(actions[3, 0])
    assert_finite(result)
    assert result[2].all()
    assert_same(result[0][0], alone[0])
    assert result[1][0] == alone[1]
    assert_same(envs.step(actions[4])[0][0], single.reset()[0])
    for action in actions[5:]:
        assert_same(envs.step(action)[0][0], single.step(action[0])[0])


@pytest.mark.long
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@each_mujoco_body
def test_divergence_resets_as_in_sync(family_id, arguments, mode):
    """A termination and its autoreset, bit for bit as Gymnasium's own vector environment has it."""
    tasks = metarl_envs.family(family_id).tasks("train")[:2] * 2
    native = make_native(family_id, 4, tasks=tasks, max_episode_steps=6, autoreset_mode=mode, **arguments)
    sync = SyncVectorEnv(
        single_factories(family_id, tasks, max_episode_steps=6, **arguments), autoreset_mode=mode
    )
    actions = random_actions(native, 16)
    assert_same(native.reset(seed=0), sync.reset(seed=0))
    for step, action in enumerate(actions):
        if step in (2, 5, 6):
            _break(native, 1, "huge velocity")
            _break(sync.envs[1].unwrapped, 0, "huge velocity")
        results = native.step(action), sync.step(action)
        assert_finite(results[0])
        assert_same(*results)


@each_mujoco_body
def test_divergence_in_disabled_mode_waits_for_its_reset(family_id, arguments):
    envs = make_native(family_id, 3, autoreset_mode="Disabled", **arguments)
    actions = random_actions(envs, 5)
    rollout(envs, actions[:2], seed=0)
    _break(envs, 0, "nan velocity")
    *_, terminated, _, _ = envs.step(actions[2])
    assert terminated[0]
    with pytest.raises(RuntimeError, match=r"\[0[,\]]"):
        envs.step(actions[3])
    result = envs.step(actions[3], ~terminated)
    assert not result[2][terminated].any()
    assert not result[4]["diverged"].any()
    assert_finite(result)
    start, _ = envs.reset(options={"reset_mask": terminated | result[2]})
    assert_finite(start)
    assert not envs.step(actions[4])[4]["diverged"].any()


@each_mujoco_body
def test_a_masked_out_simulation_does_not_diverge_yet(family_id, arguments):
    envs = make_native(family_id, 2, **arguments)
    actions = random_actions(envs, 4)
    last = rollout(envs, actions[:2], seed=0)[-1][0]
    _break(envs, 0, "huge velocity")
    result = envs.step(actions[2], np.array([False, True]))
    assert_finite(result)
    assert not result[2].any()
    assert not result[4]["diverged"].any()
    assert_same(result[0][0], last[0])
    assert envs.step(actions[3])[2].tolist() == [True, False]


@each_mujoco_body
def test_all_at_once(family_id, arguments):
    envs = make_native(family_id, 3, **arguments)
    actions = random_actions(envs, 5)
    rollout(envs, actions[:2], seed=0)
    for i in range(3):
        _break(envs, i, "nan position")
    result = envs.step(actions[2])
    assert_finite(result)
    assert result[2].all()
    for action in actions[3:]:
        result = envs.step(action)
        assert_finite(result)
        assert not result[2].any()


@pytest.mark.long
@each_mujoco_body_and_how
def test_reset_heals(family_id, arguments, how):
    """A reset right after the state broke, before any step could notice, starts a sound episode."""
    for env in (metarl_envs.MetaEnv(family_id, **arguments), make_native(family_id, 2, **arguments)):
        fresh = type(env)(family_id, **env._arguments)
        actions = random_actions(env, 4)
        rollout(env, actions, seed=0)
        _break(env, 0, how)
        expected = rollout(fresh, actions, seed=3)
        # The vector environment's default tasks are those of its twin, and so is everything else.
        assert_same(rollout(env, actions, seed=3), expected)


@each_id
def test_a_state_that_is_not_finite_does_not_leak(family_id):
    """Such a state is refused, or its episode ends at the next step; no output holds a NaN either way."""
    for env in (metarl_envs.MetaEnv(family_id), make_native(family_id, 2)):
        actions = random_actions(env, 3)
        rollout(env, actions[:1], seed=0)
        sound, state = env.get_state(), env.get_state()
        state["physics"][0, :] = np.nan
        try:
            env.set_state(state)
        except ValueError:
            refused = True
            assert_same(env.get_state(), sound)
        else:
            refused = False
        result = env.step(actions[1])
        assert_finite(result)
        assert np.ravel(result[2])[0] == (not refused)
        assert_finite(env.reset(seed=1))
        assert_finite(env.step(actions[2]))


@pytest.mark.long
@each_mujoco_body
def test_a_diverging_simulation_raises_no_numpy_warning(family_id, arguments):
    """A program that turns warnings into errors goes on as well."""
    for how in HOWS:
        envs = make_native(family_id, 2, **arguments)
        actions = random_actions(envs, 4)
        rollout(envs, actions[:2], seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _break(envs, 0, how)
            assert envs.step(actions[2])[2].tolist() == [True, False]
