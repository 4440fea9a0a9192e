"""The jumping ball of Move Box: dm_control's JumpingBallWithHead, a floor and a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Ids, Row
from metarl_envs.bodies.composed import compile_composed, composed_once, sensor_columns
from metarl_envs.bodies.mujoco_body import MujocoBody
from metarl_envs.simulation.rendering import View

BOX_HALF_SIZE = 0.25  # m; our choice: a little larger than the ball, whose radius is 0.2
_BOX_MASS = 1.0  # kg; our choice: the ball weighs 21
_ROOM = 4.0  # m; IWPA, appendix B: uniform in the room of 8 m by 8 m
_APART = 1.0  # m; our choice: the minimum distance of the ball from the box at the start
_KINEMATIC = ("walker/sensor_torso_gyro", "walker/sensor_torso_vel", "walker/sensor_torso_accel")


def compose() -> Any:
    """Returns the root of the composed model: the walker and a free box on dm_control's floor."""
    from dm_control.entities.props import Primitive
    from dm_control.locomotion.arenas.floors import Floor
    from dm_control.locomotion.walkers.jumping_ball import JumpingBallWithHead

    arena, walker = Floor(size=(8, 8)), JumpingBallWithHead()
    walker.create_root_joints(arena.attach(walker))
    box = Primitive(geom_type="box", size=[BOX_HALF_SIZE] * 3, mass=_BOX_MASS, name="box")
    arena.add_free_entity(box)
    return arena.mjcf_model


@composed_once
def build_model() -> mujoco.MjModel:
    """Returns the compiled model with only the kinematic sensors."""
    return compile_composed(compose(), _KINEMATIC)


class MoveBoxBall(MujocoBody):
    """N jumping balls, each with a box. The tracked point is the box.

    The task parameters `box_x` and `box_y` are the initial position of the box. dm_control's observables are
    omitted if they are constant (the end effector is the head itself) or contained in others (height and z
    axis).
    """

    actions = (
        Row(1, "torque that rolls the ball, × 50", "N·m"),
        Row(1, "torque that turns the head, × 30", "N·m"),
        Row(1, "force that pushes the ball off the floor, × 1000", "N"),
    )
    start_text = (
        "The box is at rest at the position given by the task. The ball is at rest and uniform in the square"
        " [-4, 4]², at least 1 m from the box, and faces along x, as in dm_control."
    )
    end_text = "At success, or when a simulation diverges."
    info_keys: ClassVar[dict[str, str]] = {
        "box_x": "position of the box along x after the step, m",
        "box_y": "position of the box along y after the step, m",
        "x_position": "position of the ball along x after the step, m",
        "y_position": "position of the ball along y after the step, m",
    }
    observations = (
        Row(1, "extension of the kicking joint", "m"),
        Row(1, "velocity of the kicking joint", "m/s"),
        Row(3, "angular velocity of the head in its own frame (gyroscope)", "rad/s"),
        Row(3, "velocity of the head in its own frame (velocimeter)", "m/s"),
        Row(3, "acceleration of the head in its own frame, one substep (5 ms) old", "m/s²"),
        Row(3, "world position of the head", "m"),
        Row(9, "orientation of the head, rotation matrix by rows", "1"),
        Row(3, "world position of the box", "m"),
        Row(4, "orientation of the box, quaternion w, x, y, z", "1"),
        Row(3, "velocity of the box in the world", "m/s"),
        Row(3, "angular velocity of the box in the world", "rad/s"),
    )
    view: ClassVar[View] = View(distance=11.0, elevation=-50.0, marker=0.3, centre=(0.0, 0.0, 0.0))

    def __init__(self, num: int, num_threads: int, frame_skip: int = 10) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.005 s per step.
        """
        super().__init__(build_model(), num, num_threads, frame_skip, fresh=True)
        model = self.model
        self._head = model.body("walker/head_body").id
        self._kick = model.joint("walker/kick")
        self._kinematics = sensor_columns(model, _KINEMATIC)
        self._box = model.body("box/").id
        self._boxes = np.zeros((num, 2))
        for name in ("xpos", "xquat", "xmat", "sensordata"):
            self.engine.derived(name)

    @property
    def task_parameters(self) -> Mapping[str, float | None]:
        """Where the box starts."""
        return {"box_x": None, "box_y": None}

    def set_tasks(self, ids: Ids, vectors: Array) -> None:
        """Stores the initial positions of the boxes, used from the next episode on."""
        self._boxes[ids] = vectors

    def start(self, ids: Ids, generators: Sequence[np.random.Generator]) -> None:
        """Places each box, and each ball at a distance from it."""
        qpos = np.tile(self._start, (len(ids), 1))
        for k, generator in enumerate(generators):
            box = self._boxes[ids[k]]
            ball = generator.uniform(-_ROOM, _ROOM, 2)
            while np.hypot(*(ball - box)) < _APART:
                ball = generator.uniform(-_ROOM, _ROOM, 2)
            qpos[k, :2] = ball
            qpos[k, 6:8] = box
            qpos[k, 8] = BOX_HALF_SIZE
        self.engine.place(ids, qpos, np.zeros((len(ids), self.model.nv)))

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the observation table."""
        engine = self.engine
        xpos, xmat = engine.derived("xpos"), engine.derived("xmat").reshape(self.num, -1, 9)
        out[:, 0] = engine.qpos[:, self._kick.qposadr[0]]
        out[:, 1] = engine.qvel[:, self._kick.dofadr[0]]
        out[:, 2:11] = engine.derived("sensordata")[:, self._kinematics]
        out[:, 11:14] = xpos[:, self._head]
        out[:, 14:23] = xmat[:, self._head]
        out[:, 23:26] = xpos[:, self._box]
        out[:, 26:30] = engine.derived("xquat")[:, self._box]
        out[:, 30:33] = engine.qvel[:, 6:9]
        # A free joint turns in its own frame.
        turned = xmat[:, self._box].reshape(-1, 3, 3) * engine.qvel[:, None, 9:12]
        out[:, 33:36] = turned[:, :, 0] + turned[:, :, 1] + turned[:, :, 2]

    def position(self) -> Array:
        """Returns x and y of the box, then of the ball, `(N, 4)`."""
        ball = self.engine.derived("xpos")[:, self._head, :2]
        return np.concatenate([self.engine.qpos[:, 6:8], ball], axis=1)
