"""The swimmer: three links in a viscous fluid, from Gymnasium's asset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Row
from metarl_envs.bodies.modelling import compile_with_mass, gymnasium_spec
from metarl_envs.bodies.mujoco_body import InPlane, MujocoBody


class Swimmer(InPlane, MujocoBody):
    """N swimmers. Noise and step are those of Gymnasium's Swimmer-v5."""

    actions = tuple(Row(1, f"torque at the {joint} joint, × 150", "N·m") for joint in ("front", "rear"))
    observations = (
        Row(1, "angle of the front link", "rad"),
        Row(2, "joint angles: front, rear", "rad"),
        Row(2, "velocity of the tip of the front link along x and y", "m/s"),
        Row(1, "angular velocity of the front link", "rad/s"),
        Row(2, "joint velocities: front, rear", "rad/s"),
    )
    gaussian_velocities = False
    start_text = "The model's default pose; every position and velocity plus U[-0.1, 0.1]."
    end_text = "Never, except that a simulation which diverges ends (`info['diverged']`)."
    info_keys = {  # noqa: RUF012
        "x_position": "position of the tip along x after the step, m",
        "y_position": "position of the tip along y after the step, m",
        "x_velocity": "finite difference of x over the step, m/s",
        "y_velocity": "finite difference of y over the step, m/s",
    }

    def __init__(self, num: int, num_threads: int, frame_skip: int = 4) -> None:
        """Builds the simulations, with `frame_skip` substeps of 0.01 s per step."""
        super().__init__(compile_with_mass(gymnasium_spec("swimmer.xml")), num, num_threads, frame_skip)

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes positions without x and y, and velocities."""
        out[:, :3] = self.engine.qpos[:, 2:]
        out[:, 3:8] = self.engine.qvel

    def position(self) -> Array:
        """Returns x and y of the tip, `(N, 2)`."""
        return self.engine.qpos[:, :2].copy()
