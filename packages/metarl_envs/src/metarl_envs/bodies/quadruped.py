"""The quadruped of Go To Ring: dm_control's Ant walker on a floor."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Row
from metarl_envs.bodies.composed import (
    ComposedWalker,
    body_ids,
    compile_composed,
    composed_once,
    egocentric,
    relative_quaternions,
    sensor_columns,
)
from metarl_envs.simulation.rendering import View

_SENSORS = ("walker/torso_gyro", "walker/torso_vel", "walker/torso_accel")
_LEGS = ("front left", "front right", "back right", "back left")


def compose() -> Any:
    """Returns the root of the composed model: the walker on dm_control's floor of half-size 8 m."""
    from dm_control.locomotion.arenas.floors import Floor
    from dm_control.locomotion.walkers.ant import Ant

    arena, walker = Floor(size=(8, 8)), Ant()
    walker.create_root_joints(arena.attach(walker))
    return arena.mjcf_model


@composed_once
def build_model() -> mujoco.MjModel:
    """Returns the compiled model with only the kinematic sensors."""
    return compile_composed(compose(), _SENSORS)


class Quadruped(ComposedWalker):
    """N quadrupeds.

    dm_control's observables are omitted if others contain them: the positions of end effectors and appendages
    (contained in those of the bodies), the body's height (in the position) and the world's z axis (in the
    orientation).
    """

    root = "walker/torso"
    spawn = 8.0  # IWPA, appendix B: spawned in the rectangle [-8, 8]
    actions = tuple(
        Row(1, f"torque at the {leg} {joint}, × 75", "N·m") for leg in _LEGS for joint in ("hip", "ankle")
    )
    start_text = "Standing at rest and facing along x; the torso is uniform in the square [-8, 8]²."
    end_text = "At success, or when a simulation diverges."
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "position of the torso along x after the step, m",
        "y_position": "position of the torso along y after the step, m",
    }
    observations = (
        Row(8, "joint angles: hip and ankle of the legs, in the order of the actions", "rad"),
        Row(8, "joint velocities, in the same order", "rad/s"),
        Row(36, "positions of 12 bodies in the torso's frame: `leg`, `aux` and `foot` of each leg", "m"),
        Row(48, "orientations of the same bodies in the torso's frame, quaternions", "1"),
        Row(3, "angular velocity of the torso in its own frame (gyroscope)", "rad/s"),
        Row(3, "velocity of the torso in its own frame (velocimeter)", "m/s"),
        Row(3, "acceleration of the torso in its own frame, one substep (5 ms) old", "m/s²"),
        Row(3, "world position of the torso", "m"),
        Row(9, "orientation of the torso, rotation matrix by rows", "1"),
    )
    view: ClassVar[View] = View(distance=22.0, elevation=-50.0, marker=1.0, centre=(0.0, 0.0, 0.0))

    def __init__(self, num: int, num_threads: int, frame_skip: int = 10) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.005 s per step.
        """
        super().__init__(build_model(), num, num_threads, frame_skip)
        model = self.model
        names = (f"walker/{leg.replace(' ', '_')}_{part}" for leg in _LEGS for part in ("leg", "aux", "foot"))
        self._bodies = body_ids(model, names)
        self._kinematics = sensor_columns(model, _SENSORS)
        self.engine.derived("xquat")

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the observation table."""
        engine, torso = self.engine, self._root
        xpos, xmat, xquat = engine.derived("xpos"), engine.derived("xmat"), engine.derived("xquat")
        place, frame = xpos[:, torso], xmat[:, torso].reshape(self.num, 9)
        out[:, :8] = engine.qpos[:, 7:]
        out[:, 8:16] = engine.qvel[:, 6:]
        out[:, 16:52] = egocentric(xpos[:, self._bodies] - place[:, None], frame).reshape(self.num, 36)
        out[:, 52:100] = relative_quaternions(xquat[:, torso], xquat[:, self._bodies]).reshape(self.num, 48)
        out[:, 100:109] = engine.derived("sensordata")[:, self._kinematics]
        out[:, 109:112] = place
        out[:, 112:121] = frame
