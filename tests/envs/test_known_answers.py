"""Numbers known beforehand: closed forms, the originals' tables, Gymnasium's own simulations."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def _vectors(family_id, split):
    return np.array([task.parameters for task in metarl_envs.family(family_id).tasks(split)])


def _play(family_id, split, policy, **arguments):
    """Plays one episode of every task of a split; returns returns and per-step infos, `(S, N)` each."""
    tasks = metarl_envs.family(family_id).tasks(split)
    envs = metarl_envs.MetaVectorEnv(
        family_id, len(tasks), split=split, num_threads=2, autoreset_mode="Disabled", **arguments
    )
    observation, start = envs.reset(seed=1)
    rewards, infos, truncated = [], [start], np.zeros(len(tasks), dtype=bool)
    while not truncated.any():
        observation, reward, terminated, truncated, info = envs.step(policy(observation))
        assert not terminated.any()
        rewards.append(reward)
        infos.append(info)
    envs.close()
    assert truncated.all()
    return np.array(rewards), infos


# The originals' tables (facts: environments.md, sections 2.2, 3.2 and 6)


def test_half_cheetah_velocities_are_oysters():
    train, test = (_vectors("MetaHalfCheetah-Vel-v0", s)[:, 0] for s in ("train", "test"))
    assert (len(train), len(test)) == (100, 30)
    np.testing.assert_allclose(train[:5], [0.7861, 0.4761, 0.8344, 1.3780, 0.9630], atol=5e-5)
    np.testing.assert_allclose(test[-5:], [2.0465, 1.4437, 2.8095, 1.7442, 0.5583], atol=5e-5)
    assert test.mean() == pytest.approx(1.4177, abs=5e-5)
    assert test.min() == pytest.approx(0.083, abs=5e-4)
    assert test.max() == pytest.approx(2.978, abs=5e-4)
    nearest = np.abs(test[:, None] - train).min(axis=1)
    assert nearest.mean() == pytest.approx(0.019, abs=5e-4)
    assert nearest.max() == pytest.approx(0.064, abs=5e-4)


def test_half_cheetah_velocities_are_oysters_draw():
    """The statement of oyster's half_cheetah_vel.py, on a generator of its own."""
    drawn = np.random.RandomState(1337).uniform(0.0, 3.0, size=(130,))
    family = "MetaHalfCheetah-Vel-v0"
    np.testing.assert_array_equal(
        drawn, np.concatenate([_vectors(family, "train"), _vectors(family, "test")])[:, 0]
    )


def test_point_goals_are_oysters():
    train, test = (_vectors("MetaPoint-Goal-v0", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (80, 20)
    np.testing.assert_allclose(train[:3], [(-0.476, -0.683), (-0.444, -0.081), (-0.358, 0.037)], atol=5e-4)
    np.testing.assert_allclose(test[:2], [(0.797, -0.475), (0.438, -0.030)], atol=5e-4)
    # oyster's point_robot.py draws goal by goal.
    state = np.random.RandomState(1337)
    drawn = [[state.uniform(-1.0, 1.0), state.uniform(-1.0, 1.0)] for _ in range(100)]
    np.testing.assert_array_equal(drawn, np.concatenate([train, test]))


def test_sparse_point_goals_are_oysters():
    train, test = (_vectors("MetaPoint-SparseGoal-v0", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (80, 20)
    np.testing.assert_allclose(train[:2], [(0.998, 0.063), (0.048, 0.999)], atol=5e-4)
    np.testing.assert_allclose(test[:2], [(-0.5, 0.866), (0.766, 0.643)], atol=5e-4)
    goals = np.concatenate([train, test])
    np.testing.assert_allclose(np.hypot(*goals.T), 1.0, rtol=1e-12)
    angles = np.sort(np.arctan2(goals[:, 1], goals[:, 0]))
    np.testing.assert_allclose(angles, np.linspace(0.0, np.pi, 100), atol=1e-12)
    nearest = np.linalg.norm(test[:, None] - train, axis=2).min(axis=1)
    assert nearest.max() == pytest.approx(0.063, abs=5e-4)


def test_ant_goals_fill_the_disc():
    train, test = (_vectors("MetaAnt-Goal-v0", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (150, 30)
    goals = np.concatenate([train, test])
    radius = np.hypot(*goals.T)
    assert radius.max() <= 3.0
    # Uniform in area: r² is uniform on [0, 9]. 180 draws have a standard error of 0.19 in its mean.
    assert (radius**2).mean() == pytest.approx(4.5, abs=0.6)
    assert radius.max() > 2.9
    quadrants = np.bincount(2 * (goals[:, 0] > 0) + (goals[:, 1] > 0), minlength=4)
    assert quadrants.min() > 25  # 45 each on average, with a standard deviation of 5.8


# Doing nothing


def test_half_cheetah_that_does_nothing():
    """The return is minus horizon × target velocity, up to the settling of the body, task by task.

    By the triangle inequality each step's reward differs from -target by at most the body's own speed, so
    the sum of speeds bounds the difference exactly. It is small: the body drops some centimetres and rests.
    """
    target = _vectors("MetaHalfCheetah-Vel-v0", "test")[:, 0]
    rewards, infos = _play("MetaHalfCheetah-Vel-v0", "test", lambda o: np.zeros((len(o), 6)))
    speeds = np.abs([info["x_velocity"] for info in infos[1:]]).sum(axis=0)
    returns = rewards.sum(axis=0)
    assert len(rewards) == 200
    assert (np.abs(returns + 200 * target) <= speeds + 1e-9).all()
    # The noise of the start, 0.1 m/s, is gone within half a second; 20 times 1 m/s is ample.
    assert speeds.max() < 20.0
    # Reported: about -283.5 = -200 · 1.4177. Measured settling is below 2 % of that.
    assert returns.mean() == pytest.approx(-283.5, rel=0.02)


def test_half_cheetah_direction_that_does_nothing():
    """The return is the net displacement over 0.05 s, with the task's sign."""
    rewards, infos = _play("MetaHalfCheetah-Dir-v0", "test", lambda o: np.zeros((len(o), 6)))
    moved = infos[-1]["x_position"] - infos[0]["x_position"]
    np.testing.assert_allclose(rewards.sum(axis=0), [-1, 1] * moved / 0.05, rtol=0.0, atol=1e-9)
    assert np.abs(moved).max() < 0.5


def test_a_control_cost_of_full_torque():
    """Every joint at its bound costs 0.05 · 6 and 0.1 · 8 per step; beyond the bound no more."""
    for family_id, size, cost in (("MetaHalfCheetah-Vel-v0", 6, 0.3), ("MetaAnt-Goal-v0", 8, 0.8)):
        for action in (1.0, -7.0):
            env = metarl_envs.MetaEnv(family_id)
            env.reset(seed=0)
            assert env.step(np.full(size, action))[4]["reward_control"] == pytest.approx(-cost, rel=1e-12)


@pytest.mark.long
def test_an_ant_that_does_nothing():
    """Minus 200 times the L1 distance of the goal, up to where the ant tumbles, task by task.

    The L1 distance to the goal differs from the goal's own norm by at most the ant's distance from the
    origin, so that distance, summed, bounds the difference exactly.
    """
    goals = _vectors("MetaAnt-Goal-v0", "test")
    rewards, infos = _play("MetaAnt-Goal-v0", "test", lambda o: np.zeros((len(o), 8)))
    expected = -200 * np.abs(goals).sum(axis=1)
    wandered = sum(np.abs(i["x_position"]) + np.abs(i["y_position"]) for i in infos[1:])
    returns = rewards.sum(axis=0)
    assert (np.abs(returns - expected) <= wandered + 1e-9).all()
    # It falls on its legs where it stands: within half a metre on average.
    assert wandered.mean() / 200 < 0.5
    # Reported: about -509 on average. |g|₁ has the standard deviation 0.94: three standard errors.
    assert returns.mean() == pytest.approx(-509.3, abs=200 * 3 * 0.94 / np.sqrt(len(goals)))


def test_the_ant_goals_mean_distance():
    """E|g|₁ = 3 · 2/3 · 4/π = 2.546, and its standard deviation 0.94, over the disc; 180 goals' mean."""
    goals = np.concatenate([_vectors("MetaAnt-Goal-v0", s) for s in ("train", "test")])
    distance = np.abs(goals).sum(axis=1)
    assert distance.mean() == pytest.approx(8 / np.pi, abs=3 * 0.94 / np.sqrt(len(goals)))
    assert distance.std() == pytest.approx(0.94, abs=0.15)


# The points in closed form

goals_in_square = st.tuples(st.floats(-1, 1), st.floats(-1, 1))


def _straight_line(start, goal):
    """Distances after steps 1 to 20 of the fastest straight walk: the longer axis moves 0.1 per step."""
    delta = np.asarray(goal) - start
    longer = np.abs(delta).max()
    steps = np.arange(1, 21)
    return np.hypot(*delta) * np.maximum(0.0, 1.0 - 0.1 * steps / longer) if longer else 0.0 * steps


@settings(max_examples=60, deadline=None)
@given(goal=goals_in_square, seed=st.integers(0, 2**31))
def test_a_point_on_a_straight_line(goal, seed):
    task = metarl_envs.Task("MetaPoint-Goal-v0", "train", -1, goal)
    env = gymnasium.make("MetaPoint-Goal-v0", task=task)
    position, info = env.reset(seed=seed)
    start = np.array([info["x_position"], info["y_position"]])
    assert (np.abs(start) <= 1.0).all()
    distances, here, truncated = [], start, False
    while not truncated:
        delta = (np.asarray(goal) - here) / 0.1
        action = delta / max(1.0, np.abs(delta).max())
        position, reward, _, truncated, info = env.step(action)
        here = np.array([info["x_position"], info["y_position"]])
        np.testing.assert_allclose(position, here, rtol=1e-6, atol=1e-7)
        assert reward == info["dense_reward"] == info["reward_goal"]
        assert info["success"] == (-reward <= 0.2)
        distances.append(-reward)
    assert len(distances) == 20
    np.testing.assert_allclose(distances, _straight_line(start, goal), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_sparse_points_on_straight_lines(split, mode):
    """From the origin to every goal of the half circle, both rewards at once."""
    goals = _vectors("MetaPoint-SparseGoal-v0", split)
    direction = goals / np.abs(goals).max(axis=1, keepdims=True)
    walked = np.zeros(len(goals))

    def policy(_):
        longer = np.abs(goals).max(axis=1)
        left = np.minimum(1.0, np.maximum(0.0, (longer - walked) / 0.1))
        walked[:] += 0.1 * left
        return direction * left[:, None]

    rewards, infos = _play("MetaPoint-SparseGoal-v0", split, policy, reward=mode)
    distance = np.array([_straight_line(np.zeros(2), goal) for goal in goals]).T
    # At exactly 0.2, where rounding decides, is only the eighth step towards (±1, 0).
    decided = np.abs(distance - 0.2) > 1e-9
    assert (~decided).sum() <= 1
    sparse = np.where(distance <= 0.2, 1.0 - distance, 0.0)
    returned = sparse if mode == "sparse" else -distance
    np.testing.assert_allclose(rewards[decided], returned[decided], rtol=0.0, atol=1e-12)
    for key, expected in (
        ("sparse_reward", sparse),
        ("dense_reward", -distance),
        ("success", distance <= 0.2),
    ):
        found = np.array([i[key] for i in infos[1:]])
        np.testing.assert_allclose(found[decided], expected[decided], rtol=0.0, atol=1e-12)
    assert (infos[0]["x_position"] == 0).all()
    assert (infos[0]["y_position"] == 0).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_points_add_up_clipped_displacements(data):
    family_id = data.draw(st.sampled_from(["MetaPoint-Goal-v0", "MetaPoint-SparseGoal-v0"]))
    env = metarl_envs.MetaEnv(family_id)
    _, info = env.reset(seed=data.draw(st.integers(0, 99)))
    position = np.array([info["x_position"], info["y_position"]])
    for action in data.draw(st.lists(st.tuples(*[st.floats(-50, 50)] * 2), max_size=8)):
        *_, info = env.step(np.array(action))
        position += 0.1 * np.clip(action, -1, 1)
        np.testing.assert_allclose([info["x_position"], info["y_position"]], position, atol=1e-12)


def test_dense_starts_are_uniform_in_the_square():
    envs = metarl_envs.MetaVectorEnv("MetaPoint-Goal-v0", 2000)
    starts, _ = envs.reset(seed=0)
    assert np.abs(starts).max() <= 1.0
    np.testing.assert_allclose(starts.mean(axis=0), 0.0, atol=0.05)
    np.testing.assert_allclose(starts.std(axis=0), 2 * 12**-0.5, atol=0.03)


# Gymnasium's models and simulations

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def _model_arrays(model):
    """All arrays of a compiled model, apart from those that say where its file was."""
    arrays = {n: getattr(model, n) for n in dir(model) if not n.startswith(("_", "path"))}
    arrays = {n: v for n, v in arrays.items() if isinstance(v, np.ndarray)}
    options = {n: np.asarray(getattr(model.opt, n)) for n in dir(model.opt) if not n.startswith("_")}
    options = {f"opt.{n}": v for n, v in options.items() if v.dtype.kind in "fiu"}
    return arrays | options


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("family_id", "asset"),
    [
        ("MetaHalfCheetah-Vel-v0", "half_cheetah.xml"),
        ("MetaHalfCheetah-Dir-v0", "half_cheetah.xml"),
        ("MetaAnt-Goal-v0", "ant.xml"),
    ],
)
def test_models_are_gymnasiums(family_id, asset):
    """Equal to the last bit, but for islands and, in the ant, halved geom margins."""
    theirs = _model_arrays(mujoco.MjModel.from_xml_path(str(ASSETS / asset)))
    ours = _model_arrays(metarl_envs.MetaEnv(family_id)._core.body.model)
    assert set(ours) == set(theirs)
    assert len(ours) > 100
    assert theirs["opt.disableflags"] != ours["opt.disableflags"]
    assert ours["opt.disableflags"] == theirs["opt.disableflags"] | int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    if "Ant" in family_id:
        assert (theirs["geom_margin"] > 0).any()
        # A body's margin is the largest of its geoms'.
        for name in ("geom_margin", "body_margin"):
            theirs[name] = theirs[name] / 2
    for name, values in ours.items():
        if name != "opt.disableflags":
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.parametrize("family_id", ["MetaHalfCheetah-Vel-v0", "MetaHalfCheetah-Dir-v0"])
def test_half_cheetah_moves_as_gymnasiums(family_id):
    """The same start and the same actions: the same trajectory as HalfCheetah-v5, for 100 steps."""
    env = metarl_envs.MetaEnv(family_id)
    theirs = gymnasium.make("HalfCheetah-v5").unwrapped
    rng = np.random.default_rng(0)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        their_observation, _ = theirs.reset(seed=seed)
        # The same seed gives the same start, since the noise is drawn in the same order.
        np.testing.assert_allclose(observation, their_observation, rtol=0.0, atol=1e-6)
        engine = env._core.body.engine
        theirs.set_state(engine.qpos[0].copy(), engine.qvel[0].copy())
        for _ in range(100):
            action = rng.uniform(-1, 1, 6)
            observation, _, _, _, info = env.step(action)
            their_observation, _, _, _, their_info = theirs.step(action)
            np.testing.assert_allclose(engine.qpos[0], theirs.data.qpos, rtol=0.0, atol=1e-9)
            np.testing.assert_allclose(engine.qvel[0], theirs.data.qvel, rtol=0.0, atol=1e-9)
            np.testing.assert_allclose(observation, their_observation, rtol=1e-6, atol=1e-6)
            for key in ("x_position", "x_velocity"):
                assert info[key] == pytest.approx(their_info[key], abs=1e-9)
    theirs.close()


def test_control_periods():
    """0.05 s in the MuJoCo families: PEARL's, not the 0.01 s of MAML's line."""
    for family_id in ("MetaHalfCheetah-Vel-v0", "MetaHalfCheetah-Dir-v0", "MetaAnt-Goal-v0"):
        env = metarl_envs.MetaEnv(family_id)
        assert env._core.body.dt == pytest.approx(0.05, rel=1e-12)
        assert env.metadata["render_fps"] == 20
        assert metarl_envs.family(family_id).horizon == 200
    for family_id in ("MetaPoint-Goal-v0", "MetaPoint-SparseGoal-v0"):
        assert metarl_envs.family(family_id).horizon == 20


@pytest.mark.parametrize(
    ("family_id", "arguments", "observations", "actions"),
    [
        ("MetaHalfCheetah-Vel-v0", {}, 17, 6),
        ("MetaHalfCheetah-Vel-v0", {"observation": "legacy"}, 20, 6),
        ("MetaHalfCheetah-Dir-v0", {}, 17, 6),
        ("MetaHalfCheetah-Dir-v0", {"observation": "legacy"}, 20, 6),
        ("MetaAnt-Goal-v0", {}, 29, 8),
        ("MetaAnt-Goal-v0", {"contact_terms": True}, 113, 8),
        ("MetaPoint-Goal-v0", {}, 2, 2),
        ("MetaPoint-SparseGoal-v0", {}, 2, 2),
    ],
)
def test_layouts(family_id, arguments, observations, actions):
    env = metarl_envs.MetaEnv(family_id, **arguments)
    assert env.observation_space.shape == (observations,)
    assert env.action_space.shape == (actions,)
