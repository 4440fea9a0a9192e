"""The four families on dm_control bodies: their numbers, starts, rewards and ends."""

import mujoco
import numpy as np
import pytest

import metarl_envs
from metarl_envs import MetaVectorEnv, family
from metarl_envs.bodies import jaco
from metarl_envs.bodies.jaco_poses import HIGH, LOW, PoseSolver

RING, BOX = "MetaQuadruped-GoToRing-v0", "MetaBall-MoveBox-v0"
REACH, TARGET = "MetaJaco-Reach-v0", "MetaCMUHumanoid-GoToTarget-v0"
# observation, action, period in s, substep in s, horizon, train and test tasks
LAYOUT = {
    RING: (121, 8, 0.05, 0.005, 200, 100, 30),
    BOX: (36, 3, 0.05, 0.005, 400, 100, 30),
    REACH: (42, 9, 0.04, 0.002, 250, 300, 30),
    TARGET: (204, 56, 0.05, 0.005, 200, 100, 30),
}


def engine(env):
    return env._core.body.engine


def reset_many(family_id, num=300, **arguments):
    env = MetaVectorEnv(family_id, num, num_threads=2, **arguments)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("family_id", LAYOUT)
def test_layout(family_id):
    observation, action, period, substep, horizon, train, test = LAYOUT[family_id]
    env = MetaVectorEnv(family_id, 1)
    assert env.single_observation_space.shape == (observation,)
    assert env.single_action_space.shape == (action,)
    assert env._core.body.dt == pytest.approx(period)
    assert env._core.body.model.opt.timestep == pytest.approx(substep)
    assert env.family.horizon == horizon
    counts = {name: split.count for name, split in env.family.splits.items()}
    assert counts == {"train": train, "validation": 10, "test": test}


def test_quadrupeds_start_anywhere_on_the_floor():
    env = reset_many(RING)
    qpos = engine(env).qpos
    assert np.abs(qpos[:, :2]).max() <= 8.0
    np.testing.assert_allclose(qpos[:, :2].std(axis=0), 16 / 12**0.5, rtol=0.1)
    np.testing.assert_array_equal(qpos[:, 2:], np.tile([0, 1, 0, 0, 0, *[0] * 8], (300, 1)))
    assert (engine(env).qvel == 0).all()


def test_rings_are_between_three_and_seven_metres_away():
    distances = np.hypot(*np.array([task.parameters for task in family(RING).tasks("train")]).T)
    assert distances.min() >= 3.0
    assert distances.max() <= 7.0
    assert distances.mean() == pytest.approx(5.0, abs=0.35)  # three standard errors


def test_balls_start_clear_of_their_box():
    env = reset_many(BOX)
    qpos, tasks = engine(env).qpos, np.array([task.parameters for task in env.tasks])
    np.testing.assert_array_equal(qpos[:, 6:8], tasks[:, :2])
    assert (qpos[:, 8] == 0.25).all()
    assert np.abs(qpos[:, :2]).max() <= 4.0
    assert np.hypot(*(qpos[:, :2] - qpos[:, 6:8]).T).min() >= 1.0
    # The box rests where it was put.
    for _ in range(10):
        env.step(np.zeros(env.action_space.shape))
    still = np.hypot(*(qpos[:, :2] - tasks[:, :2]).T) > 1.5
    np.testing.assert_allclose(qpos[still, 6:8], tasks[still, :2], atol=2e-3)
    np.testing.assert_allclose(qpos[still, 8], 0.25, atol=2e-3)


def test_jaco_starts_are_of_the_bank():
    bank = jaco.start_poses()
    env = reset_many(REACH)
    drawn = [int(np.flatnonzero((bank == row).all(axis=1))[0]) for row in engine(env).qpos]
    assert len(set(drawn)) > 200
    assert (engine(env).qvel == 0).all()


def test_every_pose_of_the_bank_is_a_good_start():
    model = jaco.build_model()
    data, bank = mujoco.MjData(model), jaco.start_poses()
    assert bank.shape == (1024, 9)
    site = model.site("jaco_arm/jaco_hand/pinchsite").id
    places = []
    for pose in bank:
        data.qpos[:] = pose
        mujoco.mj_forward(model, data)
        assert data.ncon == 0
        down = np.empty(4)
        mujoco.mju_mat2Quat(down, data.site_xmat[site])
        assert abs(abs(down @ [0, 0.5**0.5, 0.5**0.5, 0]) - 1) < 1e-6
        places.append(data.site_xpos[site].copy())
        limited = model.jnt_limited.astype(bool)
        assert (pose[limited] >= model.jnt_range[limited, 0]).all()
        assert (pose[limited] <= model.jnt_range[limited, 1]).all()
    places = np.array(places)
    assert (places >= np.array(LOW) - 1e-5).all()
    assert (places <= np.array(HIGH) + 1e-5).all()
    assert np.ptp(places, axis=0).min() > 0.35


def test_the_bank_is_what_its_generator_makes():
    solver, bank = PoseSolver(), jaco.start_poses()
    for index in (0, 1, 500, 1023):
        np.testing.assert_allclose(solver.pose(index), bank[index], rtol=0, atol=1e-6)


def test_a_changed_bank_is_refused(monkeypatch, tmp_path):
    changed = jaco.start_poses().copy()
    changed[3, 2] += 1e-9
    np.save(tmp_path / "jaco_poses.npy", changed)
    monkeypatch.setattr(jaco, "POSES_FILE", tmp_path / "jaco_poses.npy")
    jaco.start_poses.cache_clear()
    with pytest.raises(ValueError, match="frozen"):
        jaco.start_poses()
    jaco.start_poses.cache_clear()


def test_humanoids_start_upright_on_their_feet():
    env = reset_many(TARGET, 100)
    qpos = engine(env).qpos
    assert np.abs(qpos[:, :2]).max() <= 4.0
    np.testing.assert_allclose(qpos[:, :2].std(axis=0), 8 / 12**0.5, rtol=0.15)
    assert (qpos[:, 2] == 1.143).all()
    assert env._core.body.fallen() is None
    up = engine(env).derived("xpos")[:, env._core.body.model.body("walker/head").id, 2]
    assert up.min() > 1.5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_humanoids_start_every_episode_of_a_task_alike(split):
    tasks = family(TARGET).tasks(split)[:3]
    one, other = (MetaVectorEnv(TARGET, 3, tasks=tasks) for _ in range(2))
    first = one.reset(seed=0)[0]
    np.testing.assert_array_equal(one.reset()[0], first)
    np.testing.assert_array_equal(other.reset(seed=99)[0], first)
    single = metarl_envs.MetaEnv(TARGET, split=split, task=1)
    np.testing.assert_array_equal(single.reset(seed=5)[0], first[1])
    assert (first[0] != first[1]).any()
    train = MetaVectorEnv(TARGET, 2)
    start = train.reset(seed=0)[0]
    assert (train.reset()[0] != start).any(axis=1).all()
    # The simulations' own generators are left alone.
    before = [g.bit_generator.state for g in one._core.generators]
    one.reset()
    assert before == [g.bit_generator.state for g in one._core.generators]


def placed(family_id, change, **arguments):
    """One step after a simulation was put somewhere: reward, terminated, info."""
    env = MetaVectorEnv(family_id, 2, task=0, **arguments)
    env.reset(seed=0)
    task = env.tasks[0].vector
    qpos = engine(env).qpos.copy()
    change(qpos[1], task)
    engine(env).place(np.arange(2), qpos, np.zeros_like(engine(env).qvel))
    _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
    assert not truncated.any()
    return reward[1], terminated[1], {key: values[1] for key, values in info.items()}


def away_by(distance):
    def change(qpos, task):
        qpos[:2] = task[:2] + np.array([distance, 0.0])

    return change


@pytest.mark.parametrize(("distance", "inside"), [(0.9, True), (1.1, False)])
def test_reaching_the_ring_pays_ten_and_ends(distance, inside):
    reward, terminated, info = placed(RING, away_by(distance))
    assert reward == pytest.approx(10.0 * inside - 0.005)
    assert terminated == info["success"] == inside
    dense = placed(RING, away_by(distance), reward="dense")
    assert dense[0] == pytest.approx(-distance - 0.005, abs=0.05)
    assert dense[1] == inside


@pytest.mark.parametrize(("distance", "inside"), [(0.28, True), (0.32, False)])
def test_the_box_on_its_target_pays_ten_and_ends(distance, inside):
    def change(qpos, task):
        qpos[6:8] = task[2:] + np.array([distance, 0.0])
        qpos[:2] = task[2:] + np.array([3.0, 0.0])

    reward, terminated, info = placed(BOX, change)
    assert reward == 10.0 * inside
    assert terminated == info["success"] == inside


def test_reach_pays_every_step_and_never_ends():
    env = MetaVectorEnv(REACH, 1, max_episode_steps=4)
    env.reset(seed=0)
    here = engine(env).derived("site_xpos")[0, env._core.body._pinch].copy()
    for distance, inside in ((0.045, True), (0.055, False)):
        goal = here + np.array([0.0, 0.0, distance])
        env.set_task(metarl_envs.Task(REACH, "train", -1, tuple(goal.tolist())))
        _, reward, terminated, _, info = env.step(np.zeros(env.action_space.shape))
        assert reward[0] == float(inside)
        assert info["success"][0] == inside
        assert not terminated.any()
    assert not env.step(np.zeros(env.action_space.shape))[3].any()
    assert env.step(np.zeros(env.action_space.shape))[3].all()


@pytest.mark.parametrize(("distance", "inside"), [(0.9, True), (1.1, False)])
def test_reaching_the_target_pays_one_and_ends(distance, inside):
    reward, terminated, info = placed(TARGET, away_by(distance))
    assert reward == pytest.approx(1.0 * inside - 0.005)
    assert terminated == info["success"] == inside
    assert info["reward_fall"] == 0.0


def test_falling_costs_one_and_ends():
    def lie(qpos, task):
        qpos[:2] = task + 3.0
        qpos[2:7] = [0.15, 1.0, 0.0, 0.0, 0.0]

    reward, terminated, info = placed(TARGET, lie)
    assert reward == pytest.approx(-1.005)
    assert terminated
    assert not info["success"]
    assert info["reward_fall"] == -1.0


def test_the_target_is_seen_on_request_only():
    for family_id, (size, *_) in LAYOUT.items():
        env = metarl_envs.MetaEnv(family_id, observe_task=True)
        observation, info = env.reset(seed=0)
        task = env.get_task().vector
        np.testing.assert_allclose(observation[size:], task, rtol=1e-6)
        assert info["task_id"] == 0


def test_a_body_is_composed_once_and_copied(monkeypatch):
    first, second = jaco.build_model(), jaco.build_model()
    assert first is not second
    first.opt.timestep = 1.0
    assert second.opt.timestep == pytest.approx(0.002)
    monkeypatch.setattr(jaco, "compose", lambda: pytest.fail("composed again"))
    metarl_envs.MetaEnv(REACH).close()
