"""TESP's wheeled robot: velocity servos, and initial states without noise."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Row
from metarl_envs.bodies.modelling import compile_with_mass, own_spec
from metarl_envs.bodies.mujoco_body import MujocoBody
from metarl_envs.bodies.reacher import ENDS_ON_ARRIVAL
from metarl_envs.simulation.rendering import View


class Wheeled(MujocoBody):
    """N cars that translate and rotate on a plane, driven by two wheels."""

    actions = (
        Row(1, "servo velocity of wheel 1, × 50", "rad/s"),
        Row(1, "servo velocity of wheel 2, × 50", "rad/s"),
    )
    position_noise = velocity_noise = 0.0
    view: ClassVar[View] = View(distance=3.5, elevation=-40.0, marker=0.08)
    start_text = "At the origin, at rest, without noise."
    end_text = ENDS_ON_ARRIVAL
    observations = (
        Row(3, "displacement of the car along x, y, z", "m"),
        Row(2, "sine and cosine of the yaw angle", "1"),
        Row(3, "velocity of the car along x, y, z", "m/s"),
        Row(1, "yaw velocity", "rad/s"),
    )
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "position of the car along x after the step, m",
        "y_position": "position of the car along y after the step, m",
    }

    def __init__(self, num: int, num_threads: int, frame_skip: int = 5) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
        """
        super().__init__(compile_with_mass(own_spec("wheeled.xml")), num, num_threads, frame_skip)

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the car's position and velocity, without wheel angles and speeds."""
        qpos, qvel = self.engine.qpos, self.engine.qvel
        out[:, :3] = qpos[:, :3]
        out[:, 3] = np.sin(qpos[:, 3])
        out[:, 4] = np.cos(qpos[:, 3])
        out[:, 5:9] = qvel[:, :4]

    def position(self) -> Array:
        """Returns x and y of the car, `(N, 2)`."""
        return self.engine.qpos[:, :2].copy()
