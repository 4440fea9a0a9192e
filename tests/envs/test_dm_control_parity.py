"""The composed bodies against dm_control's composer: states bit for bit, observations to rounding.

dm_control's `Physics` and composer run here and nowhere else.
"""

import importlib.metadata

import numpy as np
import pytest

import metarl_envs
from metarl_envs import MetaVectorEnv
from metarl_envs.bodies import ball

mujoco_version = tuple(map(int, importlib.metadata.version("mujoco").split(".")[:2]))
if mujoco_version >= (4, 0):
    pytest.skip("dm_control 1.0.50's Physics needs mujoco 3", allow_module_level=True)

metarl_envs.MetaEnv("MetaPoint-Goal-v0").close()  # chooses headless rendering before dm_control is imported

from dm_control import composer, manipulation  # noqa: E402
from dm_control.entities import props  # noqa: E402
from dm_control.locomotion.arenas import floors  # noqa: E402
from dm_control.locomotion.tasks import go_to_target  # noqa: E402
from dm_control.locomotion.walkers import ant, cmu_humanoid, jumping_ball  # noqa: E402

STEPS = 150
NUM = 3


class Push(composer.Task):
    """A walker and a box on a floor, with every observable on."""

    def __init__(self):
        self._arena = floors.Floor(size=(8, 8))
        self._walker = jumping_ball.JumpingBallWithHead()
        self._walker.create_root_joints(self._arena.attach(self._walker))
        self.box = props.Primitive(geom_type="box", size=[ball.BOX_HALF_SIZE] * 3, mass=1.0, name="box")
        self._arena.add_free_entity(self.box)
        self.set_timesteps(physics_timestep=0.005, control_timestep=0.05)

    @property
    def root_entity(self):
        return self._arena

    def before_step(self, physics, action, random_state):
        self._walker.apply_action(physics, action, random_state)

    def get_reward(self, physics):
        return 0.0


def _walker_task(walker):
    return go_to_target.GoToTarget(
        walker, floors.Floor(size=(8, 8)), physics_timestep=0.005, control_timestep=0.05
    )


def _environment(task):
    # Cameras would need a renderer.
    wanted = lambda name: "camera" not in name  # noqa: E731
    for entity in task.root_entity.iter_entities():
        if entity.observables is not None:
            for name, observable in entity.observables.as_dict(fully_qualified=False).items():
                # The state after a step, without what the hidden forward pass recomputes.
                observable.enabled = wanted(name) and "prev_action" not in name
    return composer.Environment(task, time_limit=1e6, random_state=0, recompile_mjcf_every_episode=False)


def _quadruped():
    return _environment(_walker_task(ant.Ant()))


def _ball():
    return _environment(Push())


def _humanoid():
    task = _walker_task(cmu_humanoid.CMUHumanoidPositionControlledV2020())
    task.should_terminate_episode = lambda physics: False  # go on where it lies
    return _environment(task)


def _jaco():
    return manipulation.load("reach_site_features", seed=0)


def _rows(observation, *names):
    return np.concatenate([np.ravel(observation[name]) for name in names])


def _seen_by_quadruped(o):
    bodies = np.reshape(o["walker/bodies_pos"], (-1, 3))
    quaternions = np.reshape(o["walker/bodies_quats"], (-1, 4))
    # The first body is the torso itself.
    np.testing.assert_allclose(bodies[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(quaternions[0], [1, 0, 0, 0], atol=1e-12)
    # What is left out is what others hold.
    feet = bodies[[3, 6, 9, 12]]
    np.testing.assert_array_equal(np.reshape(o["walker/end_effectors_pos"], (-1, 3)), feet)
    np.testing.assert_array_equal(np.reshape(o["walker/appendages_pos"], (-1, 3)), feet)
    np.testing.assert_array_equal(np.ravel(o["walker/body_height"]), np.ravel(o["walker/position"])[2:])
    np.testing.assert_array_equal(np.ravel(o["walker/world_zaxis"]), np.ravel(o["walker/orientation"])[6:])
    return np.concatenate(
        [
            _rows(o, "walker/joints_pos", "walker/joints_vel"),
            bodies[1:].ravel(),
            quaternions[1:].ravel(),
            _rows(o, "walker/sensors_gyro", "walker/sensors_velocimeter"),
            np.full(3, np.nan),  # the accelerometer
            _rows(o, "walker/position", "walker/orientation"),
        ]
    )


def _seen_by_ball(o):
    np.testing.assert_allclose(o["walker/end_effectors_pos"], 0.0, atol=1e-12)
    np.testing.assert_array_equal(np.ravel(o["walker/body_height"]), np.ravel(o["walker/position"])[2:])
    np.testing.assert_array_equal(np.ravel(o["walker/world_zaxis"]), np.ravel(o["walker/orientation"])[6:])
    return np.concatenate(
        [
            _rows(o, "walker/joints_pos", "walker/joints_vel"),
            _rows(o, "walker/sensors_gyro", "walker/sensors_velocimeter"),
            np.full(3, np.nan),
            _rows(o, "walker/position", "walker/orientation"),
            _rows(o, "box/position", "box/orientation", "box/linear_velocity", "box/angular_velocity"),
        ]
    )


def _seen_by_humanoid(o):
    appendages = np.reshape(o["walker/appendages_pos"], (-1, 3))
    effectors = np.reshape(o["walker/end_effectors_pos"], (-1, 3))
    np.testing.assert_allclose(effectors, appendages[:4], rtol=0, atol=1e-12)
    return np.concatenate(
        [
            _rows(o, "walker/joints_pos", "walker/joints_vel", "walker/actuator_activation"),
            appendages.ravel(),
            _rows(o, "walker/sensors_gyro", "walker/sensors_velocimeter"),
            np.full(3, np.nan),
            _rows(o, "walker/position", "walker/orientation"),
        ]
    )


def _seen_by_jaco(o):
    return np.concatenate(
        [
            _rows(o, "jaco_arm/joints_pos", "jaco_arm/joints_vel", "jaco_arm/joints_torque"),
            _rows(o, "jaco_arm/jaco_hand/joints_pos", "jaco_arm/jaco_hand/joints_vel"),
            _rows(o, "jaco_arm/jaco_hand/pinch_site_pos", "jaco_arm/jaco_hand/pinch_site_rmat"),
        ]
    )


BODIES = {
    "MetaQuadruped-GoToRing-v0": (_quadruped, _seen_by_quadruped, 121),
    "MetaBall-MoveBox-v0": (_ball, _seen_by_ball, 36),
    "MetaJaco-Reach-v0": (_jaco, _seen_by_jaco, 42),
    "MetaCMUHumanoid-GoToTarget-v0": (_humanoid, _seen_by_humanoid, 204),
}


@pytest.mark.long
@pytest.mark.parametrize("num", [1, NUM])
@pytest.mark.parametrize("family_id", BODIES)
def test_states_and_observations_are_composers(family_id, num, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a fallen humanoid's instabilities there
    make, seen, size = BODIES[family_id]
    reference = make()
    env = MetaVectorEnv(family_id, num, num_threads=2)
    assert env.single_observation_space.shape == (size,)
    env.reset(seed=0)
    body = env._core.body
    timestep = reference.reset()
    physics = reference.physics
    engine = body.engine
    assert engine.model.opt.timestep == pytest.approx(physics.timestep())
    assert engine.frame_skip * engine.model.opt.timestep == pytest.approx(reference.control_timestep())
    start = np.tile(physics.data.qpos, (num, 1))
    engine.place(np.arange(num), start, np.tile(physics.data.qvel, (num, 1)))
    rng = np.random.default_rng(1)
    spec, row = reference.action_spec(), num - 1
    out = np.empty((num, size))
    for _ in range(STEPS):
        action = rng.uniform(-1.0, 1.0, (num, *env.single_action_space.shape))
        timestep = reference.step(action[row] * spec.maximum)
        body.advance(action, None)
        assert engine.qpos[row].tobytes() == physics.data.qpos.tobytes()
        assert engine.qvel[row].tobytes() == physics.data.qvel.tobytes()
        body.write_observations(out)
        expected = seen(timestep.observation)
        compared = np.isfinite(expected)
        assert compared.sum() >= size - 3
        np.testing.assert_allclose(out[row][compared], expected[compared], rtol=0.0, atol=1e-12)
    env.close()
    reference.close()


@pytest.mark.long
@pytest.mark.parametrize("num", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_falls_are_what_the_contact_list_says(num, monkeypatch, tmp_path):
    """1000 or 5000 states of humanoids that stand, fall and lie, against MuJoCo's list of contacts."""
    monkeypatch.chdir(tmp_path)
    walker = cmu_humanoid.CMUHumanoidPositionControlledV2020()
    reference = _environment(_walker_task(walker))
    reference.reset()
    env = MetaVectorEnv("MetaCMUHumanoid-GoToTarget-v0", num, num_threads=2)
    env.reset(seed=0)
    body = env._core.body
    model = body.engine.model
    floor = model.geom("groundplane").id
    feet = {model.geom(geom.full_identifier).id for geom in walker.ground_contact_geoms}
    rng = np.random.default_rng(0)
    falls = states = 0
    for _ in range(100):
        body.advance(rng.uniform(-1.0, 1.0, (num, 56)), None)
        found = body.fallen()
        found = np.zeros(num, dtype=bool) if found is None else found
        for i in range(num):
            data = body.engine._batch.get_data(i)  # with its contacts at the new state
            pairs = [(c.geom1, c.geom2) for c in data.contact]
            listed = any(floor in pair and pair[0] + pair[1] - floor not in feet for pair in pairs)
            assert listed == found[i]
            falls += listed
            states += 1
    assert states == 100 * num
    assert 0.1 < falls / states < 0.9
    env.close()
