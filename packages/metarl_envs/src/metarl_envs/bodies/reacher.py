"""TESP's reachers: planar arms with velocity servos, and initial states without noise."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Row
from metarl_envs.bodies.modelling import compile_with_mass, own_spec, use_legacy_capsule_inertia
from metarl_envs.bodies.mujoco_body import MujocoBody
from metarl_envs.simulation.rendering import View

_TOTAL_MASS = 24.0  # kg
ENDS_ON_ARRIVAL = (
    "Only when a simulation diverges (`info['diverged']`). With `termination='legacy'`, also when the goal is"
    " reached."
)
"""When episodes end on TESP's bodies."""


class Reacher(MujocoBody):
    """N planar arms with the same links. The tracked point is the fingertip."""

    position_noise = velocity_noise = 0.0
    view: ClassVar[View] = View(
        distance=5.5, elevation=-89.0, marker=0.1, marker_height=0.3, centre=(0.0, 0.0, 0.0)
    )  # from above, the goal over the arm
    start_text = "Straight along x, at rest, without noise."
    end_text = ENDS_ON_ARRIVAL
    links: ClassVar[tuple[float, ...]]
    """Distances between the joints, and from the last one to the fingertip, m."""
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "position of the fingertip along x after the step, m",
        "y_position": "position of the fingertip along y after the step, m",
    }

    def __init__(self, num: int, num_threads: int, frame_skip: int = 5) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
        """
        spec = own_spec(f"reacher{len(self.links)}.xml")
        use_legacy_capsule_inertia(spec)
        super().__init__(compile_with_mass(spec, _TOTAL_MASS), num, num_threads, frame_skip)

    @property
    def observations(self) -> tuple[Row, ...]:
        """Joint angles as cosines and sines, joint velocities, position of the fingertip."""
        n = len(self.links)
        return (
            Row(n, "cosines of the joint angles", "1"),
            Row(n, "sines of the joint angles", "1"),
            Row(n, "joint velocities", "rad/s"),
            Row(2, "position of the fingertip", "m"),
        )

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the joints and the fingertip."""
        n, qpos = len(self.links), self.engine.qpos
        out[:, :n] = np.cos(qpos)
        out[:, n : 2 * n] = np.sin(qpos)
        out[:, 2 * n : 3 * n] = self.engine.qvel
        out[:, 3 * n : 3 * n + 2] = self.position()

    def position(self) -> Array:
        """Returns x and y of the fingertip, `(N, 2)`, from the joint angles."""
        # Summed joint by joint, because the rounding of a matrix product may depend on the number of rows.
        direction, point = np.zeros(self.num), np.zeros((self.num, 2))
        for joint, length in enumerate(self.links):
            direction = direction + self.engine.qpos[:, joint]
            point[:, 0] += length * np.cos(direction)
            point[:, 1] += length * np.sin(direction)
        return point


class Reacher2(Reacher):
    """N arms of two links."""

    links = (0.75, 0.95)
    actions = tuple(Row(1, f"servo velocity of joint {i}, × 100", "rad/s") for i in range(2))


class Reacher4(Reacher):
    """N arms of four links."""

    links = (0.45, 0.45, 0.45, 0.65)
    actions = tuple(Row(1, f"servo velocity of joint {i}, × 50", "rad/s") for i in range(4))
