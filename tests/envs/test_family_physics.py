"""What ends an episode of a family, what its tasks change of the physics, and what the rewards are of."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs
from metarl_envs import MetaVectorEnv, RewardModel, family
from metarl_envs.evaluation import Protocol, ZeroAgent, evaluate, iqm, summarise

TESP = ("MetaAnt-GoalAnnulus-v0", "MetaWheeled-Goal-v0", "MetaReacher2-Goal-v0", "MetaReacher4-Goal-v0")
DYNAMICS = ("MetaAnt-LowFriction-v0", "MetaAnt-Crippled-v0")
SHORT = (*(i for i in metarl_envs.registered_ids() if "Short" in i), *DYNAMICS)


def engine(env):
    return env._core.body.engine


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


@pytest.mark.long
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
            # The arm starts stretched out, beyond the goals of the family, so their check is passed by.
            task = metarl_envs.Task(family_id, "train", -1, tuple(goal.tolist()))
            env._core.set_tasks(np.arange(1), [task])
            env.reset(seed=0)
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


@pytest.mark.long
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
