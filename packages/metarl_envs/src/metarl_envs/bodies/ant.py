"""The ant: a torso on four two-joint legs, from Gymnasium's asset."""

from __future__ import annotations

from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Row
from metarl_envs.bodies.mujoco_body import MujocoBody, gymnasium_spec


@lru_cache(maxsize=1)
def _spec() -> mujoco.MjSpec:
    spec = gymnasium_spec("ant.xml")
    # MuJoCo 3.5 and later add the margins of two touching geoms where older versions, on which these
    # tasks were defined, took the larger. Floor and limbs have equal margins, so halves restore it.
    for geom in spec.geoms:
        geom.margin /= 2
    return spec


class Ant(MujocoBody):
    """N ants on a plane."""

    actions = tuple(
        Row(1, f"torque at {joint}, × 150", "N·m")
        for joint in (
            "hip 4 (back right)",
            "ankle 4",
            "hip 1 (front left)",
            "ankle 1",
            "hip 2 (front right)",
            "ankle 2",
            "hip 3 (back left)",
            "ankle 3",
        )
    )
    start_text = (
        "The model's default pose (torso at 0.75 m, joints at 0); every position plus U[-0.1, 0.1]"
        " (x, y, z and the quaternion included), every velocity 0.1 · N(0, 1)."
    )
    end_text = "Never, except that a simulation which diverges ends (`info['diverged']`)."
    info_keys = {  # noqa: RUF012
        "x_position": "position of the torso along x after the step, m",
        "y_position": "position of the torso along y after the step, m",
        "x_velocity": "finite difference of x over the step, m/s",
        "y_velocity": "finite difference of y over the step, m/s",
    }

    def __init__(self, num: int, num_threads: int, frame_skip: int = 5, contact_terms: bool = False) -> None:
        """Builds the simulations.

        Args:
            num: how many.
            num_threads: threads to step on.
            frame_skip: substeps of 0.01 s per step.
            contact_terms: observe the contact forces (84 more numbers) and report them to the objective.
        """
        super().__init__(_spec().compile(), num, num_threads, frame_skip, contact_forces=contact_terms)
        self.reports_contact_forces = contact_terms
        self._forces = np.zeros((num, self.model.nbody * 6))

    @property
    def observations(self) -> tuple[Row, ...]:
        """Positions and velocities; with the contact terms, the clipped wrenches on every body."""
        rows: tuple[Row, ...] = (
            Row(3, "world position of the torso", "m"),
            Row(4, "orientation of the torso, quaternion w, x, y, z", "1"),
            Row(8, "joint angles: hip and ankle 1, 2, 3, 4", "rad"),
            Row(3, "velocity of the torso in the world", "m/s"),
            Row(3, "angular velocity of the torso in its own frame", "rad/s"),
            Row(8, "joint velocities, in the same order", "rad/s"),
        )
        if self.reports_contact_forces:
            rows += (Row(84, "contact torque and force on 14 bodies, clipped to [-1, 1]", "N·m, N"),)
        return rows

    def observe(self, out: NDArray[np.float32]) -> None:
        """Writes `qpos`, `qvel` and, if asked for, the clipped contact wrenches."""
        out[:, :15] = self.engine.qpos
        out[:, 15:29] = self.engine.qvel
        if self.reports_contact_forces:
            forces = self.engine.contact_forces().reshape(self.num, -1)
            self._forces = np.clip(forces, -1.0, 1.0)
            out[:, 29:113] = self._forces

    def contact_forces(self) -> Array | None:
        """Returns the wrenches that the last `observe` computed."""
        return self._forces if self.reports_contact_forces else None

    def position(self) -> Array:
        """Returns x and y of the torso, `(N, 2)`."""
        return self.engine.qpos[:, :2].copy()

    def info(self, position: Array, velocity: Array) -> dict[str, Array]:
        """Returns position and velocity in the plane."""
        return {
            "x_position": position[:, 0].copy(),
            "y_position": position[:, 1].copy(),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
        }
