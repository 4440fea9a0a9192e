"""What the papers and the originals fix about each family, checked number by number."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs
from metarl_envs import MetaVectorEnv, RewardModel, family
from metarl_envs.evaluation import Protocol, ZeroAgent, evaluate, iqm, summarise

# id: observation, action, period in s, horizon; {split: (count, low, high per parameter)}
LAYOUT = {
    "MetaHalfCheetah-VelOODMedium-v0": (17, 6, 0.05),
    "MetaHalfCheetah-VelOODHard-v0": (17, 6, 0.05),
    "MetaHalfCheetah-DirShort-v0": (24, 6, 0.01),
    "MetaHalfCheetah-VelShort-v0": (24, 6, 0.01),
    "MetaHalfCheetah-VelShortFull-v0": (24, 6, 0.01),
    "MetaAnt-Dir-v0": (27, 8, 0.05),
    "MetaAnt-Dir2D-v0": (27, 8, 0.05),
    "MetaAnt-DirShort-v0": (44, 8, 0.02),
    "MetaAnt-VelShort-v0": (44, 8, 0.02),
    "MetaAnt-VelShortFull-v0": (44, 8, 0.02),
    "MetaAnt-VelShort2D-v0": (44, 8, 0.02),
    "MetaAnt-LowFriction-v0": (44, 8, 0.02),
    "MetaAnt-Crippled-v0": (44, 8, 0.02),
    "MetaAnt-GoalAnnulus-v0": (29, 8, 0.05),
    "MetaHumanoid-Dir2D-v0": (45, 17, 0.015),
    "MetaHumanoid-VelShort-v0": (39, 10, 0.01),
    "MetaHumanoid-VelShortFull-v0": (39, 10, 0.01),
    "MetaWalker2d-Params-v0": (17, 6, 0.016),
    "MetaHopper-Params-v0": (11, 3, 0.016),
    "MetaWheeled-Goal-v0": (9, 2, 0.05),
    "MetaReacher2-Goal-v0": (8, 2, 0.05),
    "MetaReacher4-Goal-v0": (14, 4, 0.05),
}
COUNTS = {
    "MetaHalfCheetah-VelOODMedium-v0": {"train": 100, "test": 30, "ood": 30},
    "MetaHalfCheetah-VelOODHard-v0": {"train": 100, "test": 30, "ood": 30},
    "MetaHalfCheetah-DirShort-v0": {"train": 2, "test": 2},
    "MetaHalfCheetah-VelShort-v0": {"train": 100, "test": 40, "ood": 40},
    "MetaHalfCheetah-VelShortFull-v0": {"train": 100, "test": 40},
    "MetaAnt-Dir-v0": {"train": 2, "test": 2},
    "MetaAnt-Dir2D-v0": {"train": 100, "test": 30},
    "MetaAnt-DirShort-v0": {"train": 2, "test": 2},
    "MetaAnt-VelShort-v0": {"train": 100, "test": 40, "ood": 40},
    "MetaAnt-VelShortFull-v0": {"train": 100, "test": 40},
    "MetaAnt-VelShort2D-v0": {"train": 100, "test": 40},
    "MetaAnt-LowFriction-v0": {"train": 2, "test": 2, "ood": 2},
    "MetaAnt-Crippled-v0": {"train": 2, "test": 2, "ood": 2},
    "MetaAnt-GoalAnnulus-v0": {"train": 100, "test": 100, "ood": 100},
    "MetaHumanoid-Dir2D-v0": {"train": 100, "test": 30},
    "MetaHumanoid-VelShort-v0": {"train": 100, "test": 40},
    "MetaHumanoid-VelShortFull-v0": {"train": 100, "test": 40},
    "MetaWalker2d-Params-v0": {"train": 40, "test": 10},
    "MetaHopper-Params-v0": {"train": 40, "test": 10},
    "MetaWheeled-Goal-v0": {"train": 100, "test": 100, "ood": 100},
    "MetaReacher2-Goal-v0": {"train": 100, "test": 100, "ood": 100},
    "MetaReacher4-Goal-v0": {"train": 100, "test": 100, "ood": 100},
}
RANGES = {
    ("MetaHalfCheetah-VelOODMedium-v0", "train"): (0.0, 2.5),
    ("MetaHalfCheetah-VelOODMedium-v0", "test"): (0.0, 2.5),
    ("MetaHalfCheetah-VelOODMedium-v0", "ood"): (2.5, 3.0),
    ("MetaHalfCheetah-VelOODHard-v0", "train"): (0.0, 1.5),
    ("MetaHalfCheetah-VelOODHard-v0", "ood"): (2.5, 3.0),
    ("MetaHalfCheetah-VelShort-v0", "train"): (0.0, 2.0),
    ("MetaHalfCheetah-VelShort-v0", "ood"): (-2.0, 0.0),
    ("MetaHalfCheetah-VelShortFull-v0", "train"): (-2.0, 2.0),
    ("MetaAnt-VelShort-v0", "train"): (0.0, 3.0),
    ("MetaAnt-VelShort-v0", "ood"): (-3.0, 0.0),
    ("MetaAnt-VelShortFull-v0", "train"): (-3.0, 3.0),
    ("MetaAnt-VelShort2D-v0", "train"): (-3.0, 3.0),
    ("MetaAnt-Dir2D-v0", "train"): (0.0, 2 * np.pi),
    ("MetaHumanoid-Dir2D-v0", "train"): (0.0, 2 * np.pi),
    ("MetaHumanoid-VelShort-v0", "train"): (0.0, 1.5),
    ("MetaHumanoid-VelShortFull-v0", "train"): (-1.5, 1.5),
}
CONTROL_COSTS = {
    "MetaHalfCheetah-VelOODMedium-v0": 0.05,
    "MetaHalfCheetah-VelShort-v0": 0.05,
    "MetaAnt-Dir-v0": 0.5,
    "MetaAnt-Dir2D-v0": 0.5,
    "MetaAnt-DirShort-v0": 0.005,
    "MetaAnt-VelShort2D-v0": 0.005,
    "MetaAnt-GoalAnnulus-v0": 0.0005,
    "MetaHumanoid-Dir2D-v0": 0.1 * 0.4**2,
    "MetaHumanoid-VelShort-v0": 0.0005,
    "MetaWalker2d-Params-v0": 0.001,
    "MetaHopper-Params-v0": 0.001,
    "MetaWheeled-Goal-v0": 0.0005,
    "MetaReacher2-Goal-v0": 0.0005,
    "MetaReacher4-Goal-v0": 0.0005,
}
ALIVE = {
    "MetaAnt-Dir-v0": 1.0,
    "MetaAnt-Dir2D-v0": 1.0,
    "MetaAnt-DirShort-v0": 0.05,
    "MetaAnt-VelShort-v0": 1.05,
    "MetaAnt-VelShort2D-v0": 2.05,
    "MetaHumanoid-Dir2D-v0": 5.0,
    "MetaHumanoid-VelShort-v0": 1.0,
    "MetaWalker2d-Params-v0": 1.0,
    "MetaHopper-Params-v0": 1.0,
}
TESP = ("MetaAnt-GoalAnnulus-v0", "MetaWheeled-Goal-v0", "MetaReacher2-Goal-v0", "MetaReacher4-Goal-v0")
DYNAMICS = ("MetaAnt-LowFriction-v0", "MetaAnt-Crippled-v0")
SHORT = (*(i for i in metarl_envs.registered_ids() if "Short" in i), *DYNAMICS)


def table(family_id, split):
    return np.array([task.parameters for task in family(family_id).tasks(split)])


def engine(env):
    return env._core.body.engine


@pytest.mark.parametrize("family_id", LAYOUT)
def test_layout(family_id):
    observation, action, period = LAYOUT[family_id]
    env = MetaVectorEnv(family_id, 1)
    assert env.single_observation_space.shape == (observation,)
    assert env.single_action_space.shape == (action,)
    assert env._core.body.dt == pytest.approx(period)
    assert env.family.horizon == 200
    validation = {} if env.family.train_equals_test else {"validation": 10}
    assert {name: split.count for name, split in env.family.splits.items()} == COUNTS[family_id] | validation


@pytest.mark.parametrize(("family_id", "split"), RANGES)
def test_ranges(family_id, split):
    low, high = RANGES[family_id, split]
    rows = table(family_id, split)
    assert rows.min() >= low
    assert rows.max() <= high
    # A hundred draws fill nine tenths of a range, or the range is another one.
    assert np.ptp(rows, axis=0).min() > 0.85 * (high - low)


@pytest.mark.parametrize("family_id", [i for i in COUNTS if "ood" in COUNTS[i]])
def test_ood_is_apart_from_train_and_test(family_id):
    near = np.concatenate([table(family_id, "train"), table(family_id, "test")])
    far = table(family_id, "ood")
    if family_id in TESP:
        near, far = np.hypot(*near.T)[:, None], np.hypot(*far.T)[:, None]
    column = -1  # the flag of the families with another dynamics, else the only one
    if family_id.endswith("VelShort-v0"):
        assert far[:, column].max() <= near[:, column].min()
    else:
        assert far[:, column].min() >= near[:, column].max()


def test_mql_tables_are_the_originals():
    medium, hard = "MetaHalfCheetah-VelOODMedium-v0", "MetaHalfCheetah-VelOODHard-v0"
    np.testing.assert_allclose(table(medium, "train")[:3, 0], [0.6551, 0.3967, 0.6953], atol=5e-5)
    np.testing.assert_allclose(table(hard, "train")[:3, 0], [0.3930, 0.2380, 0.4172], atol=5e-5)
    np.testing.assert_array_equal(table(medium, "ood"), table(hard, "ood"))
    np.testing.assert_allclose(table(hard, "ood")[:3, 0], [2.8418, 2.5138, 2.6169], atol=5e-5)


@pytest.mark.parametrize("family_id", TESP)
def test_tesp_goals_are_spaced_in_their_rings(family_id):
    spacing = 0.11 if "Reacher4" in family_id else 0.1
    near = np.concatenate([table(family_id, "train"), table(family_id, "test")])
    for rows, inner, outer in ((near, 0.2, 1.1), (table(family_id, "ood"), 1.1, 1.5)):
        radius = np.hypot(*rows.T)
        assert inner < radius.min()
        assert radius.max() < outer
        distances = np.hypot(*(rows[:, None] - rows[None]).transpose(2, 0, 1))
        assert distances[~np.eye(len(rows), dtype=bool)].min() > spacing
    np.testing.assert_allclose(near[:3], [[-0.249, 0.661], [-0.941, -0.463], [-0.310, 0.116]], atol=5e-4)


def test_tesp_mean_radii():
    """The means the facts give for the rule with spacing 0.1."""
    means = [np.hypot(*table("MetaWheeled-Goal-v0", split).T).mean() for split in ("train", "test", "ood")]
    np.testing.assert_allclose(means, [0.778, 0.734, 1.318], atol=5e-4)


@pytest.mark.parametrize("family_id", CONTROL_COSTS)
def test_control_cost(family_id):
    env = MetaVectorEnv(family_id, 1)
    env.reset(seed=0)
    action = np.full(env.action_space.shape, 0.5, np.float32)
    cost = env.step(action)[4]["reward_control"][0]
    assert cost == pytest.approx(-CONTROL_COSTS[family_id] * 0.25 * action.size, rel=1e-9)
    beyond = env.step(np.full(env.action_space.shape, 3.0))[4]["reward_control"][0]
    assert beyond == pytest.approx(-CONTROL_COSTS[family_id] * action.size, rel=1e-9)


@pytest.mark.parametrize("family_id", LAYOUT)
def test_alive_bonus(family_id):
    env = MetaVectorEnv(family_id, 1)
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape))[4]
    assert info.get("reward_alive", np.zeros(1))[0] == pytest.approx(ALIVE.get(_kin(family_id), 0.0))


def _kin(family_id):
    """The family whose constants a family shares."""
    return {
        "MetaAnt-VelShortFull-v0": "MetaAnt-VelShort-v0",
        "MetaAnt-LowFriction-v0": "MetaAnt-DirShort-v0",
        "MetaAnt-Crippled-v0": "MetaAnt-DirShort-v0",
        "MetaHumanoid-VelShortFull-v0": "MetaHumanoid-VelShort-v0",
    }.get(family_id, family_id)


HEIGHTS = {  # index of the height in qpos, and what it may be
    "MetaAnt-Dir-v0": (2, 0.2, 1.0),
    "MetaAnt-Dir2D-v0": (2, 0.2, 1.0),
    "MetaAnt-DirShort-v0": (2, 0.2, 1.0),
    "MetaHumanoid-Dir2D-v0": (2, 1.0, 2.0),
    "MetaHumanoid-VelShort-v0": (2, 0.8, 2.0),
    "MetaWalker2d-Params-v0": (1, 0.8, 2.0),
    "MetaHopper-Params-v0": (1, 0.7, np.inf),
}


@pytest.mark.parametrize("family_id", HEIGHTS)
def test_falling_ends_an_episode(family_id):
    index, low, high = HEIGHTS[family_id]
    body = MetaVectorEnv(family_id, 4)._core.body
    body.start(np.arange(4), [np.random.default_rng(i) for i in range(4)])
    for height, fallen in (
        (low + 1e-6, False),
        (low - 1e-6, True),
        (high - 1e-6, False),
        (high + 1e-6, True),
    ):
        if not np.isfinite(height):
            continue
        body.engine.qpos[:, index] = (low + min(high, low + 1)) / 2
        body.engine.qpos[2, index] = height
        found = body.fallen()
        assert (found is not None and bool(found[2])) is fallen
        assert found is None or not found[[0, 1, 3]].any()


@pytest.mark.parametrize(
    ("family_id", "limit"), [("MetaWalker2d-Params-v0", 1.0), ("MetaHopper-Params-v0", 0.2)]
)
def test_tilting_ends_an_episode(family_id, limit):
    body = MetaVectorEnv(family_id, 2)._core.body
    body.start(np.arange(2), [np.random.default_rng(i) for i in range(2)])
    for angle, fallen in ((limit - 1e-6, False), (limit + 1e-6, True), (-limit - 1e-6, True)):
        body.engine.qpos[:, 2] = [0.0, angle]
        found = body.fallen()
        assert (found is not None and found.tolist() == [False, True]) is fallen


def test_hopper_ends_when_its_state_is_wild():
    body = MetaVectorEnv("MetaHopper-Params-v0", 2)._core.body
    body.start(np.arange(2), [np.random.default_rng(i) for i in range(2)])
    assert body.fallen() is None
    body.engine.qvel[1, 4] = 100.5
    assert body.fallen().tolist() == [False, True]


@pytest.mark.parametrize("family_id", ["MetaHalfCheetah-VelShort-v0", *TESP])
def test_never_ends_by_itself(family_id):
    env = MetaVectorEnv(family_id, 4, autoreset_mode="SameStep")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(400):
        assert not env.step(env.action_space.sample())[2].any()


@pytest.mark.parametrize(("family_id", "radius"), list(zip(TESP, (0.03, 0.02, 0.06, 0.11), strict=True)))
def test_arrival_ends_an_episode_only_in_legacy_mode(family_id, radius):
    for termination in ("never", "legacy"):
        env = MetaVectorEnv(family_id, 1, termination=termination)
        env.reset(seed=0)
        here = env.step(np.zeros(env.action_space.shape))[4]
        place = np.array([here["x_position"][0], here["y_position"][0]])
        for distance, inside in ((0.5 * radius, True), (1.5 * radius, False)):
            goal = place + np.array([distance, 0.0])
            env.reset(
                seed=0, options={"task": metarl_envs.Task(family_id, "train", -1, tuple(goal.tolist()))}
            )
            _, _, terminated, _, info = env.step(np.zeros(env.action_space.shape))
            assert info["success"][0] == inside
            assert terminated[0] == (inside and termination == "legacy")


def test_the_small_ant_falls_in_legacy_mode_only():
    for termination, ends in (("never", False), ("legacy", True)):
        body = MetaVectorEnv("MetaAnt-GoalAnnulus-v0", 1, termination=termination)._core.body
        body.start(np.arange(1), [np.random.default_rng(0)])
        assert body.fallen() is None
        body.engine.qpos[0, 2] = 0.46
        assert (body.fallen() is not None) is ends


@pytest.mark.parametrize("leg", [1, 2, 3, 4])
def test_a_dead_leg_gives_no_torque_and_costs_nothing(leg):
    env = MetaVectorEnv("MetaAnt-Crippled-v0", 4, tasks=[0, 1, 0, 1], leg=leg)
    env.set_tasks([metarl_envs.family("MetaAnt-Crippled-v0").task("ood", 0)], np.array([0, 0, 1, 0], bool))
    env.reset(seed=0)
    forces = env._core.body.engine.derived("actuator_force")
    info = env.step(np.ones(env.action_space.shape))[4]
    names = [env._core.body.model.actuator(i).name for i in range(8)]
    dead = np.array([name.endswith(str(leg)) for name in names])
    if dead.sum() == 0:  # the asset names no actuators; their joints are
        model = env._core.body.model
        joints = [model.joint(model.actuator_trnid[i, 0]).name for i in range(8)]
        dead = np.array([name.endswith(str(leg)) for name in joints])
    assert dead.sum() == 2
    assert (forces[2][dead] == 0).all()
    assert (forces[2][~dead] != 0).all()
    assert (forces[[0, 1, 3]] != 0).all()
    np.testing.assert_allclose(info["reward_control"], [-0.04, -0.04, -0.03, -0.04])


def test_low_friction_acts_at_the_contacts():
    f = family("MetaAnt-LowFriction-v0")
    env = MetaVectorEnv(f, 2, tasks=[f.task("train", 0), f.task("ood", 0)])
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.zeros(env.action_space.shape))
    friction = []
    for i in range(2):
        e = engine(env)
        data, model = e._batch.get_data(i), e._batch.get_model(i)
        mujoco.mj_forward(model, data)
        assert data.ncon > 0
        friction.append(np.array([c.friction for c in data.contact]))
    np.testing.assert_allclose(friction[0], np.tile([1, 1, 0.5, 0.5, 0.5], (len(friction[0]), 1)))
    np.testing.assert_allclose(friction[1], np.tile([0.5, 0.5, 0.25, 0.25, 0.25], (len(friction[1]), 1)))


@pytest.mark.parametrize("physics", ["physical", "legacy"])
@pytest.mark.parametrize("family_id", ["MetaWalker2d-Params-v0", "MetaHopper-Params-v0"])
def test_multipliers_reach_the_simulation(family_id, physics):
    """A simulation in a batch equals a plain loop over a model that was edited by hand."""
    env = MetaVectorEnv(family_id, 3, physics=physics)
    env.reset(seed=0)
    model = metarl_envs.MetaEnv(family_id)._core.assembly.make_body(1, 1).model
    m, b, v, g = 1, model.nbody, model.nv, model.ngeom
    x = env.tasks[1].vector
    model.body_mass *= x[:b]
    inertia = x[b : 4 * b].reshape(b, 3)
    model.body_inertia *= x[:b, None] if physics == "physical" else inertia
    model.dof_damping *= x[4 * b : 4 * b + v]
    model.geom_friction *= x[4 * b + v :].reshape(g, 3)
    assert len(x) == 4 * b + v + 3 * g
    if physics == "physical":
        mujoco.mj_setConst(model, mujoco.MjData(model))
    data = mujoco.MjData(model)
    state = engine(env).get_state()[m]
    spec = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
    mujoco.mj_setState(model, data, state, spec)
    rng = np.random.default_rng(0)
    for _ in range(30):
        action = rng.uniform(-1, 1, env.action_space.shape)
        env.step(action)
        data.ctrl[:] = action[m]
        mujoco.mj_step(model, data, 4)
        if env._ended.any():
            break
        np.testing.assert_array_equal(engine(env).qpos[m], data.qpos)


@pytest.mark.parametrize("family_id", ["MetaWalker2d-Params-v0", "MetaHopper-Params-v0"])
def test_multipliers_are_within_their_bounds(family_id):
    f = family(family_id)
    damping = np.array([name.startswith("damping") for name in f.parameter_names])
    for split in f.splits:
        rows = table(family_id, split)
        assert rows[:, ~damping].min() >= 0.296
        assert rows[:, ~damping].max() <= 3.3751
        assert rows[:, damping].min() >= 0.455
        assert rows[:, damping].max() <= 2.1971
    assert len(f.parameter_names) == {"MetaWalker2d-Params-v0": 65, "MetaHopper-Params-v0": 41}[family_id]


def test_crl_subset():
    f = family("MetaHumanoid-Dir2D-v0")
    assert f.subset("crl") == f.tasks("train")[:10]
    with pytest.raises(ValueError, match="crl"):
        f.subset("clr")


@pytest.mark.parametrize("family_id", SHORT)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_reward_model_equals_the_environment(family_id, data):
    f = family(family_id)
    split = data.draw(st.sampled_from(tuple(f.splits)))
    seed = data.draw(st.integers(0, 2**20))
    observe_task = data.draw(st.booleans())
    arguments = {name: data.draw(st.sampled_from(a.choices)) for name, a in f.arguments.items()}
    env = MetaVectorEnv(f, 6, split=split, observe_task=observe_task, autoreset_mode="Disabled", **arguments)
    model = RewardModel(f, **arguments)
    tasks = np.stack([task.vector for task in env.tasks])
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    active = np.ones(6, bool)
    for _ in range(60):
        action = rng.uniform(-1.3, 1.3, env.action_space.shape)
        following, reward, terminated, _, _ = env.step(action, active)
        predicted = model.reward(observation, action, following, tasks)
        np.testing.assert_allclose(predicted[active], reward[active], atol=2e-6)
        np.testing.assert_array_equal(model.terminated(following)[active], terminated[active])
        active &= ~terminated
        observation = following
        if not active.any():
            break


def test_a_family_prints_as_one_line():
    text = repr(family("MetaHopper-Params-v0"))
    assert text == (
        "<Family MetaHopper-Params-v0: hopper, forward, 40 train / 10 validation / 10 test tasks>"
    )


def test_reward_model_refuses_families_whose_observations_do_not_do():
    with pytest.raises(ValueError, match="Short"):
        RewardModel("MetaHalfCheetah-Vel-v0")


def test_centre_of_mass_velocity_is_that_of_the_new_state():
    """Sensors are read at the state after the step, not one substep before."""
    for family_id in ("MetaAnt-VelShort-v0", "MetaHumanoid-VelShort-v0", "MetaHalfCheetah-VelShort-v0"):
        for num in (1, 3):
            env = MetaVectorEnv(family_id, num, num_threads=2)
            env.reset(seed=1)
            env.action_space.seed(0)
            for _ in range(10):
                _, _, _, _, info = env.step(env.action_space.sample())
            data = engine(env).data(num - 1)
            mujoco.mj_subtreeVel(engine(env).model, data)
            assert info["x_velocity"][num - 1] == data.subtree_linvel[1, 0]
            assert info["x_position"][num - 1] == data.subtree_com[1, 0]


def test_humanoid_progress_is_the_originals():
    """0.25 / timestep times the step of the centre of mass, which is 1.25 times its velocity."""
    f = family("MetaHumanoid-Dir2D-v0")
    env = MetaVectorEnv(f, 2)
    _, info = env.reset(seed=0)
    before = np.array([info["x_position"], info["y_position"]])
    info = env.step(np.full(env.action_space.shape, 0.3))[4]
    moved = np.array([info["x_position"], info["y_position"]]) - before
    angle = np.array([task.parameters[0] for task in env.tasks])
    along = moved[0] * np.cos(angle) + moved[1] * np.sin(angle)
    np.testing.assert_allclose(info["reward_velocity"], 0.25 * along / 0.003, rtol=1e-9)


def test_a_report_shows_the_score_without_the_alive_bonus():
    protocol = Protocol(split="test", adaptation_episodes=0, num_tasks=4)
    for family_id, bonus in (("MetaHumanoid-VelShort-v0", 1.0), ("MetaHalfCheetah-VelShort-v0", None)):
        report = evaluate(ZeroAgent(), family_id, protocol)
        summary = summarise(report, repetitions=10)
        if bonus is None:
            assert summary.score_without_bonus is None
            assert "bonus" not in str(summary)
        else:
            bare = report.returns[..., 0] - bonus * report.lengths[..., 0]
            assert summary.score_without_bonus.value == pytest.approx(float(iqm(bare)))
            assert "without the alive bonus" in str(summary)
