"""The half-cheetah: a planar robot with six motors, from Gymnasium's asset."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Row
from metarl_envs.bodies.modelling import compile_with_mass, gymnasium_spec, use_legacy_capsule_inertia
from metarl_envs.bodies.mujoco_body import MujocoBody, OnLine
from metarl_envs.bodies.rllab import ShortBody

_TOTAL_MASS = 14.0  # kg; the asset sets it with a compiler attribute that MuJoCo 4 deprecates


def _spec(inertia: str) -> mujoco.MjSpec:
    spec = gymnasium_spec("half_cheetah.xml")
    if inertia == "legacy":
        use_legacy_capsule_inertia(spec)
    return spec


_ACTIONS = (
    Row(1, "torque at the back thigh, × 120", "N·m"),
    Row(1, "torque at the back shin, × 90", "N·m"),
    Row(1, "torque at the back foot, × 60", "N·m"),
    Row(1, "torque at the front thigh, × 120", "N·m"),
    Row(1, "torque at the front shin, × 60", "N·m"),
    Row(1, "torque at the front foot, × 30", "N·m"),
)
_NEVER_ENDS = "Only when a simulation diverges (`info['diverged']`)."


class HalfCheetah(OnLine, MujocoBody):
    """N half-cheetahs. Episodes do not end by a fall."""

    actions = _ACTIONS
    start_text = "The model's default pose, noise U[-0.1, 0.1] on positions. Velocities are 0.1 · N(0, 1)."
    end_text = _NEVER_ENDS
    info_keys = {  # noqa: RUF012
        "x_position": "position of the torso along x after the step, m",
        "x_velocity": "finite difference of `x_position` over the step, m/s",
    }

    def __init__(
        self,
        num: int,
        num_threads: int,
        frame_skip: int = 5,
        observation: str = "compact",
        inertia: str = "current",
    ) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
            observation: `compact` (17 numbers) or `legacy` (20, with the torso's world position).
            inertia: rule for the masses and inertias of capsules: that of current MuJoCo (`current`), or that
                of versions before 2.1.2 (`legacy`).
        """
        super().__init__(compile_with_mass(_spec(inertia), _TOTAL_MASS), num, num_threads, frame_skip)
        self._legacy = observation == "legacy"
        if self._legacy:
            self._torso = self.model.body("torso").id
            self.engine.derived("xpos")

    @property
    def observations(self) -> tuple[Row, ...]:
        """Positions without x, and velocities; the legacy layout adds the torso's position."""
        rows: tuple[Row, ...] = (
            Row(1, "height of the torso above its default", "m"),
            Row(1, "pitch of the torso", "rad"),
            Row(6, "joint angles: back thigh, shin, foot; front thigh, shin, foot", "rad"),
            Row(1, "velocity along x", "m/s"),
            Row(1, "velocity along z", "m/s"),
            Row(1, "pitch velocity", "rad/s"),
            Row(6, "joint velocities, in the same order", "rad/s"),
        )
        if self._legacy:
            rows += (Row(3, "world position x, y, z of the torso, one substep (0.01 s) old", "m"),)
        return rows

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes `qpos[1:]`, `qvel` and, in the legacy layout, the torso's `xpos`."""
        out[:, :8] = self.engine.qpos[:, 1:]
        out[:, 8:17] = self.engine.qvel
        if self._legacy:
            out[:, 17:20] = self.engine.derived("xpos")[:, self._torso]

    def position(self) -> Array:
        """Returns x of the root, `(N, 1)`."""
        return self.engine.qpos[:, :1].copy()


class HalfCheetahShort(ShortBody):
    """N half-cheetahs of the rllab lineage; a step is one substep."""

    actions = _ACTIONS
    start_text = "The model's default pose, noise 0.01 · N(0, 1) on positions. Velocities are 0.1 · N(0, 1)."
    end_text = _NEVER_ENDS

    def __init__(self, num: int, num_threads: int, frame_skip: int = 1, inertia: str = "legacy") -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
            inertia: as for `HalfCheetah`; these tasks were defined on the older engines.
        """
        super().__init__(_spec(inertia), num, num_threads, frame_skip, total_mass=_TOTAL_MASS)

    @property
    def state_rows(self) -> tuple[Row, ...]:
        """Positions and velocities."""
        return (
            Row(1, "x of the torso", "m"),
            Row(1, "height of the torso above its default", "m"),
            Row(1, "pitch of the torso", "rad"),
            Row(6, "joint angles: back thigh, shin, foot; front thigh, shin, foot", "rad"),
            Row(2, "velocity of the torso along x and z", "m/s"),
            Row(1, "pitch velocity", "rad/s"),
            Row(6, "joint velocities, in the same order", "rad/s"),
        )
