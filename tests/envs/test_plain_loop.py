"""Every family with a model against a plain loop of `mj_step`, observations and rewards written out again.

The reference shares the compiled model with the environment and nothing else; `test_families` and
`test_known_answers` hold the numbers in it.
"""

import copy

import mujoco
import numpy as np
import pytest
from representatives import BODY_IDS

import metarl_envs

pytestmark = pytest.mark.usefixtures("in_empty_folder")

STEPS = 40


def _variants():
    for family_id in metarl_envs.registered_ids():
        family = metarl_envs.family(family_id)
        if family.body == "point":
            continue
        for arguments in (
            {},
            *({a.name: c} for a in family.arguments.values() for c in a.choices if c != a.default),
        ):
            for split in ("test", "ood") if "ood" in family.splits else ("test",):
                for num, threads in ((1, 1), (4, 2)):
                    # One simulation and several have engines of their own, which test_engine.py compares.
                    plain = family_id in BODY_IDS and split == "test" and not arguments
                    yield pytest.param(
                        *(family_id, arguments, split, num, threads),
                        id=f"{family_id}-{split}-{arguments}-{num}-{threads}",
                        marks=() if num > 1 or plain else pytest.mark.slow,
                    )


VARIANTS = list(_variants())
REACHERS = ("reacher2", "reacher4")
COMPOSED = {  # body: root body, its kinematic sensors
    "quadruped": ("walker/torso", ("torso_gyro", "torso_vel", "torso_accel")),
    "move_box_ball": ("walker/head_body", ("sensor_torso_gyro", "sensor_torso_vel", "sensor_torso_accel")),
    "cmu_humanoid": ("walker/root", ("sensor_root_gyro", "sensor_root_veloc", "sensor_root_accel")),
}
LEGS = ("front_left", "front_right", "back_right", "back_left")
FEET = ("lfoot", "rfoot", "ltoes", "rtoes")
SITE = ("site_xpos", "site_xmat")
SHORT = ("ant_short", "half_cheetah_short", "simple_humanoid")


class PlainLoop:
    """N simulations in N `MjData`, stepped by `mj_step` and nothing else, with islands as MuJoCo has them."""

    def __init__(self, env):
        core = env._core
        engine, self.family = core.body.engine, core.family
        self.skip = engine.frame_skip
        self.options = {**self.family.body_options, **self.family.objective_options}
        self.tasks = np.array([task.parameters for task in env.tasks])
        varied = getattr(engine, "_varied", {})
        self.models = []
        for i in range(env.num_envs):
            model = copy.copy(engine._batch.get_model(i) if varied else engine.model)
            model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
            self.models.append(model)
        self.data = [mujoco.MjData(model) for model in self.models]
        for model, data, qpos, qvel in zip(self.models, self.data, engine.qpos, engine.qvel, strict=True):
            data.qpos[:], data.qvel[:] = qpos, qvel
            mujoco.mj_forward(model, data)
            mujoco.mj_rnePostConstraint(model, data)
        self._now = None

    def applied(self, actions):
        """What reaches the motors, in [-1, 1]."""
        actions = np.clip(actions.astype(np.float64), -1.0, 1.0)
        if self.options.get("dynamics") == "crippled":
            model = self.models[0]
            joints = [model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu)]
            dead = [name.endswith(str(self.options.get("leg", 4))) for name in joints]
            for row, task in zip(actions, self.tasks, strict=True):
                row[dead] = np.where(task[1] > 0, 0.0, row[dead])
        return actions

    def step(self, actions):
        for model, data, action in zip(self.models, self.data, self.applied(actions), strict=True):
            data.ctrl[:] = action * model.actuator_ctrlrange[:, 1]
            for _ in range(self.skip):
                mujoco.mj_step(model, data)
            mujoco.mj_rnePostConstraint(model, data)
        self._now = None

    def rows(self, name, body=None):
        """A field as `mj_step` left it, which lags by a substep where it is derived."""
        values = [np.array(getattr(data, name)) for data in self.data]
        return np.stack(values if body is None else [v[self._id(body)] for v in values])

    def fresh(self, name, body, kind="body"):
        """A derived field of one body or site at the present state."""
        if self._now is None:
            self._now = [copy.copy(data) for data in self.data]
            for model, data in zip(self.models, self._now, strict=True):
                mujoco.mj_forward(model, data)
                mujoco.mj_subtreeVel(model, data)
        index = getattr(self.models[0], kind)(body).id
        return np.stack([np.array(getattr(data, name)[index]) for data in self._now])

    def _id(self, body):
        return self.models[0].body(body).id

    def observation(self):
        """The observation tables of the pages, written out from the simulator's own arrays."""
        body, options = self.family.body, self.options
        qpos, qvel = self.rows("qpos"), self.rows("qvel")
        if body in SHORT:
            parts = [qpos, qvel]
            if body == "ant_short":
                parts.append(self.fresh("xmat", "torso"))
            parts += [self.fresh("subtree_com", "torso"), self.fresh("subtree_linvel", "torso")]
        elif body == "ant":
            parts = [qpos if options.get("observe_position", True) else qpos[:, 2:], qvel]
            if options.get("contact_terms"):
                parts.append(self.forces())
        elif body == "small_ant":
            parts = [qpos, qvel]
        elif body == "half_cheetah":
            parts = [qpos[:, 1:], qvel]
            if options.get("observation") == "legacy":
                parts.append(self.rows("xpos", "torso"))
        elif body in ("walker2d", "hopper"):
            parts = [qpos[:, 1:], np.clip(qvel, -10.0, 10.0)]
        elif body == "humanoid":
            parts = [qpos[:, 2:], qvel]
            if options.get("observation") == "legacy":
                parts += [self.rows(name)[:, 1:].reshape(len(qpos), -1) for name in ("cinert", "cvel")]
                parts.append(self.rows("qfrc_actuator")[:, 6:])
                if options.get("contact_terms"):
                    parts.append(self.forces())
        elif body == "wheeled":
            yaw = qpos[:, 3:4]
            parts = [qpos[:, :3], np.sin(yaw), np.cos(yaw), qvel[:, :4]]
        elif body in REACHERS:
            parts = [np.cos(qpos), np.sin(qpos), qvel, self.fresh("xpos", "fingertip")[:, :2]]
        elif body in COMPOSED:
            parts = self._composed_observation(body, qpos, qvel)
        elif body == "jaco":
            arm = np.stack([np.sin(qpos[:, :6]), np.cos(qpos[:, :6])], axis=2).reshape(-1, 12)
            axes = np.array([self.models[0].joint(f"jaco_arm/joint_{i}").axis for i in range(1, 7)])
            # The sensors belong to the last substep.
            torques = (self.rows("sensordata").reshape(-1, 6, 3) * axes).sum(axis=2)
            squashed = np.sign(torques) * np.log1p(np.abs(torques))
            hand = [self.fresh(name, "jaco_arm/jaco_hand/pinchsite", "site") for name in SITE]
            parts = [arm, qvel[:, :6], squashed, qpos[:, 6:], qvel[:, 6:], *hand]
        else:
            raise NotImplementedError(f"write the observation of {body!r} out here")
        return np.concatenate(parts, axis=1)

    def _composed_observation(self, body, qpos, qvel):
        root, sensors = COMPOSED[body]
        place, frame = self.fresh("xpos", root), self.fresh("xmat", root)
        axes = frame.reshape(-1, 3, 3)
        rates, lagging = [], []
        for name in sensors:
            now, late = self._sensor(f"walker/{name}")
            rates.append(now)
            lagging.append(late)
        kinematics = [*rates[:2], lagging[2]]  # the accelerometer is that of the last substep

        def seen_from_root(names):
            offsets = [self.fresh("xpos", f"walker/{name}") - place for name in names]
            return np.concatenate([np.einsum("ni,nij->nj", offset, axes) for offset in offsets], axis=1)

        if body == "quadruped":
            legs = [f"{leg}_{part}" for leg in LEGS for part in ("leg", "aux", "foot")]
            turns = []
            for name in legs:
                turn = np.empty((len(qpos), 4))
                for i, (a, b) in enumerate(
                    zip(self.fresh("xquat", root), self.fresh("xquat", f"walker/{name}"), strict=True)
                ):
                    mujoco.mju_mulQuat(turn[i], a * [1, -1, -1, -1], b)
                turns.append(turn)
            first = [qpos[:, 7:], qvel[:, 6:], seen_from_root(legs), *turns]
        elif body == "move_box_ball":
            first = [qpos[:, 4:5], qvel[:, 4:5]]
        else:
            joints = self.models[0].actuator_trnid[:, 0]
            angles, speeds = self.models[0].jnt_qposadr[joints], self.models[0].jnt_dofadr[joints]
            appendages = seen_from_root(("rradius", "lradius", "rfoot", "lfoot", "head"))
            first = [qpos[:, angles], qvel[:, speeds], self.rows("act"), appendages]
        last = [place, frame]
        if body == "move_box_ball":
            turn = np.stack([self._box_axes(q) for q in qpos[:, 9:13]])
            spin = np.einsum("nij,nj->ni", turn, qvel[:, 9:12])  # a free joint turns in its own frame
            last += [qpos[:, 6:9], qpos[:, 9:13], qvel[:, 6:9], spin]
        return [*first, *kinematics, *last]

    @staticmethod
    def _box_axes(quaternion):
        axes = np.empty(9)
        mujoco.mju_quat2Mat(axes, quaternion / np.linalg.norm(quaternion))
        return axes.reshape(3, 3)

    def _sensor(self, name):
        """A sensor at the present state, and as the last substep left it."""
        sensor = self.models[0].sensor(name)
        columns = slice(sensor.adr[0], sensor.adr[0] + sensor.dim[0])
        self.fresh("xpos", "world")
        now = np.stack([data.sensordata[columns].copy() for data in self._now])
        return now, self.rows("sensordata")[:, columns]

    def forces(self):
        """The contact wrenches that are observed and charged."""
        forces = self.rows("cfrc_ext")
        if self.family.body == "humanoid":
            return forces[:, 1:].reshape(len(forces), -1)
        return np.clip(forces.reshape(len(forces), -1), -1.0, 1.0)

    def place(self):
        """The tracked point."""
        if self.family.body in SHORT:
            return self.fresh("subtree_com", "torso")
        if self.family.body == "humanoid":
            return self.rows("subtree_com", "torso")[:, :2]
        if self.family.body in REACHERS:
            return self.fresh("xpos", "fingertip")[:, :2]
        if self.family.body == "jaco":
            return self.fresh("site_xpos", "jaco_arm/jaco_hand/pinchsite", "site")
        if self.family.body == "move_box_ball":
            return self.rows("qpos")[:, 6:8]
        if self.family.body in COMPOSED:
            return self.fresh("xpos", COMPOSED[self.family.body][0])[:, :2]
        return self.rows("qpos")[:, : 1 if self.family.body in ("half_cheetah", "walker2d", "hopper") else 2]

    def velocity(self, before):
        if self.family.body in SHORT:
            return self.fresh("subtree_linvel", "torso")
        return (self.place() - before) / (self.skip * self.models[0].opt.timestep)

    def judge(self, before):
        """Progress and success of a step that began at `before`."""
        tasks, velocity, objective = self.tasks, self.velocity(before), self.family.objective
        if objective == "velocity":
            error = np.abs(velocity[:, : tasks.shape[1]] - tasks)
            return -error.sum(axis=1), (error <= 0.2).all(axis=1)
        if objective == "direction":
            return velocity[:, 0] * tasks[:, 0], velocity[:, 0] * tasks[:, 0] >= 1.0
        if objective == "forward":
            return velocity[:, 0], velocity[:, 0] >= 1.0
        if objective == "direction_2d":
            along = velocity[:, 0] * np.cos(tasks[:, 0]) + velocity[:, 1] * np.sin(tasks[:, 0])
            return self.options.get("velocity_weight", 1.0) * along, along >= 1.0
        if objective == "goal":
            offset = self.place() - tasks
            success = np.hypot(*offset.T) <= self.options["radius"]
            norm = self.options["norm"]
            return -(np.abs(offset).sum(axis=1) if norm == 1 else np.hypot(*offset.T)), success
        if objective == "on_target":
            axes = sum(name.startswith("target_") for name in self.family.parameter_names)
            distance = np.linalg.norm(self.place()[:, :axes] - tasks[:, -axes:], axis=1)
            success = distance <= self.options["radius"]
            dense = self.options.get("reward") == "dense"
            return -distance if dense else self.options["bonus"] * success, success
        raise NotImplementedError(f"write the objective {objective!r} out here")

    def terms(self, before, actions):
        """The reward terms by their names in info."""
        options = self.options
        progress = {"goal": "reward_goal", "on_target": "reward_target"}
        terms = {progress.get(self.family.objective, "reward_velocity"): self.judge(before)[0]}
        if "control_cost" in options:
            squares = (self.applied(actions) ** 2).sum(axis=1)
            terms["reward_control"] = -options["control_cost"] * squares
        if options.get("contact_terms"):
            cost = options["contact_cost"] * (self.forces() ** 2).sum(axis=1)
            terms["reward_contact"] = -np.minimum(cost, options.get("contact_limit", np.inf))
        if "drift_cost" in options:
            drift = self.velocity(before)[:, 1:3]
            terms["reward_drift"] = -options["drift_cost"] * (drift**2).sum(axis=1)
        if "alive_bonus" in options:
            terms["reward_alive"] = np.full(len(actions), options["alive_bonus"])
        if "step_cost" in options:
            terms["reward_step"] = np.full(len(actions), -options["step_cost"])
        if "fall_cost" in options:
            terms["reward_fall"] = -options["fall_cost"] * self.fallen()
        return terms

    def fallen(self):
        """Which humanoids touch the floor with anything but their feet, by MuJoCo's list of contacts."""
        self.fresh("xpos", "world")
        model = self.models[0]
        feet = {i for i in range(model.nbody) if model.body(i).name[7:] in FEET}
        result = []
        for data in self._now:
            pairs = [{int(model.geom_bodyid[c.geom1]), int(model.geom_bodyid[c.geom2])} for c in data.contact]
            result.append(any(0 in pair and not pair <= {0, *feet} for pair in pairs))
        return np.array(result)


@pytest.mark.parametrize(("family_id", "arguments", "split", "num", "threads"), VARIANTS)
def test_physics_observations_rewards_and_infos(family_id, arguments, split, num, threads):
    env = metarl_envs.MetaVectorEnv(
        family_id, num, split=split, num_threads=threads, max_episode_steps=10**6, **arguments
    )
    rng = np.random.default_rng(3)
    observation, _ = env.reset(seed=5)
    engine, loop = env._core.body.engine, PlainLoop(env)
    loop.options |= arguments
    # The environment adds the fingertip's coordinates up from the joints, and turns positions by hand.
    summed = (*REACHERS, "quadruped", "cmu_humanoid", "move_box_ball", "jaco")
    tolerance = 1e-6 if loop.family.body in summed else 0.0
    np.testing.assert_allclose(observation, loop.observation().astype(np.float32), rtol=0, atol=1e-6)
    touched, compared = 0.0, 0
    for _ in range(STEPS):
        action = rng.uniform(-1.3, 1.3, env.action_space.shape).astype(np.float32)
        before = loop.place()
        loop.step(action)
        observation, reward, terminated, truncated, info = env.step(action)
        # Bit for bit.
        assert engine.qpos.tobytes() == loop.rows("qpos").tobytes()
        assert engine.qvel.tobytes() == loop.rows("qvel").tobytes()
        expected = loop.observation().astype(np.float32)
        np.testing.assert_allclose(observation, expected, rtol=0.0, atol=tolerance)
        terms = loop.terms(before, action)
        assert {k for k in info if k.startswith("reward_")} == set(terms)
        for name, values in terms.items():
            np.testing.assert_allclose(info[name], values, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(reward, sum(terms.values()), rtol=1e-12, atol=1e-9)
        np.testing.assert_array_equal(info["success"], loop.judge(before)[1])
        for axis, name in enumerate("xy"):
            place = f"box_{name}" if f"box_{name}" in info else f"{name}_position"
            if place in info:
                np.testing.assert_allclose(info[place], loop.place()[:, axis], atol=1e-12)
            if f"{name}_velocity" in info:
                velocity = loop.velocity(before)[:, axis]
                np.testing.assert_allclose(info[f"{name}_velocity"], velocity, rtol=0.0, atol=1e-9)
        assert not truncated.any()
        compared += 1
        if loop.options.get("contact_terms"):
            assert engine.contact_forces().tobytes() == loop.rows("cfrc_ext").tobytes()
            touched = max(touched, np.abs(loop.forces()).max())
        if terminated.any():
            break
    assert compared == STEPS or terminated.any()
    assert compared >= 3  # a hopper falls that soon
    if loop.options.get("contact_terms") and compared == STEPS:
        assert touched > 0.5, "no contact force was seen"
    env.close()


ANKLES = (0, 1, 0, -1, 0, -1, 0, 1)
# Body: the pose without noise (None: the model's), half-width or deviation of its noise, whether it is
# Gaussian, and the same two for the velocities.
STARTS = {
    "ant": (None, 0.1, False, 0.1, True),
    "ant_short": ((0, 0, 0.55, 1, 0, 0, 0, *ANKLES), 0.01, True, 0.1, True),
    "half_cheetah": (None, 0.1, False, 0.1, True),
    "half_cheetah_short": (None, 0.01, True, 0.1, True),
    "hopper": (None, 0.005, False, 0.005, False),
    "humanoid": (None, 0.01, False, 0.01, False),
    "reacher2": (np.zeros(2), 0.0, False, 0.0, False),
    "reacher4": (np.zeros(4), 0.0, False, 0.0, False),
    "simple_humanoid": (None, 0.01, True, 0.1, True),
    "small_ant": ((0, 0, 0.25, 1, 0, 0, 0, *ANKLES), 0.0, False, 0.0, False),
    "walker2d": (None, 0.005, False, 0.005, False),
    "wheeled": (np.zeros(6), 0.0, False, 0.0, False),
}
COMPOSED_STARTS = {"quadruped", "move_box_ball", "jaco", "cmu_humanoid"}  # tested with their families
BODIES = {family.body: family.id for family in map(metarl_envs.family, metarl_envs.registered_ids())}


@pytest.mark.parametrize("body", [body for body in BODIES if body not in {"point", *COMPOSED_STARTS}])
def test_starting_states(body):
    env = metarl_envs.MetaVectorEnv(BODIES[body], 400, num_threads=2)
    env.reset(seed=0)
    engine = env._core.body.engine
    pose, *noises = STARTS[body]
    pose = engine.model.qpos0 if pose is None else np.asarray(pose, dtype=np.float64)
    for offset, scale, gaussian in (
        (engine.qpos - pose, noises[0], noises[1]),
        (engine.qvel, noises[2], noises[3]),
    ):
        if not scale:
            assert (offset == 0).all()
            continue
        deviation = scale if gaussian else scale / 3**0.5
        np.testing.assert_allclose(offset.mean(axis=0), 0.0, atol=deviation / 4)
        np.testing.assert_allclose(offset.std(axis=0), deviation, rtol=0.15)
        assert (np.abs(offset).max() <= scale * (1 + 1e-12)) is np.bool_(not gaussian)
    # Each simulation draws with its own generator, positions first.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7)))
    env.reset(seed=7)
    for values, centre, scale, gaussian in (
        (engine.qpos[0], pose, noises[0], noises[1]),
        (engine.qvel[0], 0.0, noises[2], noises[3]),
    ):
        size = len(values)
        noise = rng.standard_normal(size) * scale if gaussian else rng.uniform(-scale, scale, size)
        np.testing.assert_array_equal(values, centre + noise)
    env.close()
