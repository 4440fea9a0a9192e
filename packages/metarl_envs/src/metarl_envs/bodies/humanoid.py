"""The humanoid of Gymnasium and the simple humanoid of rllab."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Mask, Row, if_any, outside
from metarl_envs.bodies.modelling import compile_with_mass, gymnasium_spec, halve_margins, own_spec
from metarl_envs.bodies.mujoco_body import InPlane, MujocoBody
from metarl_envs.bodies.rllab import ShortBody

_SIMPLE_MOTORS = (
    "right hip, sideways", "right hip, forward", "right knee", "left hip, sideways", "left hip, forward",
    "left knee", "right shoulder 1", "right shoulder 2", "left shoulder 1", "left shoulder 2",
)  # fmt: skip
_MOTORS = (
    "abdomen y", "abdomen z", "abdomen x", "right hip x", "right hip z", "right hip y", "right knee",
    "left hip x", "left hip z", "left hip y", "left knee", "right shoulder 1", "right shoulder 2",
    "right elbow", "left shoulder 1", "left shoulder 2", "left elbow",
)  # fmt: skip


class Humanoid(InPlane, MujocoBody):
    """N humanoids. The tracked point is the centre of mass of the whole body.

    As in the original, this is the value that MuJoCo stores after a step. It belongs to the last stage of the
    Runge-Kutta integrator and is about 4e-6 m from that of the new state.
    """

    actions = tuple(Row(1, f"torque at the {motor}, × 0.4 × gear", "N·m") for motor in _MOTORS)
    position_noise = velocity_noise = 0.01
    gaussian_velocities = False
    start_text = "The default pose (torso at 1.4 m) with noise U[-0.01, 0.01] on positions and velocities."
    end_text = "When the torso's height leaves [1.0, 2.0] m, or a simulation diverges."
    info_keys = {  # noqa: RUF012
        "x_position": "x of the centre of mass after the step, m",
        "y_position": "y of the centre of mass after the step, m",
        "x_velocity": "finite difference of x over the step, m/s",
        "y_velocity": "finite difference of y over the step, m/s",
    }

    def __init__(
        self,
        num: int,
        num_threads: int,
        frame_skip: int = 5,
        observation: str = "compact",
        contact_terms: bool = False,
    ) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.003 s per step.
            observation: `compact` (45 numbers) or `legacy` (348 with the contact terms, 270 without).
            contact_terms: whether to observe contact forces (legacy layout); the objective receives them.
        """
        spec = gymnasium_spec("humanoid.xml")
        halve_margins(spec)
        model = compile_with_mass(spec)
        super().__init__(model, num, num_threads, frame_skip, contact_forces=contact_terms)
        self.engine.derived("subtree_com")
        self._torso = model.body("torso").id
        self._legacy = observation == "legacy"
        self.reports_contact_forces = contact_terms
        self._forces = np.zeros((num, (model.nbody - 1) * 6))
        if self._legacy:
            for name in ("cinert", "cvel", "qfrc_actuator"):
                self.engine.derived(name)

    @property
    def observations(self) -> tuple[Row, ...]:
        """Positions without x and y, and velocities; the legacy layout adds the rest of Gymnasium's."""
        rows: tuple[Row, ...] = (
            Row(1, "height of the torso", "m"),
            Row(4, "orientation of the torso, quaternion w, x, y, z", "1"),
            Row(17, "joint angles", "rad"),
            Row(3, "velocity of the torso in the world", "m/s"),
            Row(3, "angular velocity of the torso in its own frame", "rad/s"),
            Row(17, "joint velocities", "rad/s"),
        )
        if self._legacy:
            rows += (
                Row(130, "inertia about the centre of mass, 13 bodies", "kg, kg·m, kg·m²"),
                Row(78, "velocity about the centre of mass, 13 bodies", "rad/s, m/s"),
                Row(17, "motor torques", "N·m"),
            )
            if self.reports_contact_forces:
                rows += (Row(78, "contact torque and force on 13 bodies", "N·m, N"),)
        return rows

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes positions, velocities and the additions of the legacy layout."""
        out[:, :22] = self.engine.qpos[:, 2:]
        out[:, 22:45] = self.engine.qvel
        if self.reports_contact_forces:
            self._forces = self.engine.contact_forces()[:, 1:].reshape(self.num, -1)
        if self._legacy:
            out[:, 45:175] = self.engine.derived("cinert")[:, 1:].reshape(self.num, -1)
            out[:, 175:253] = self.engine.derived("cvel")[:, 1:].reshape(self.num, -1)
            out[:, 253:270] = self.engine.derived("qfrc_actuator")[:, 6:]
            if self.reports_contact_forces:
                out[:, 270:348] = self._forces

    def contact_forces(self) -> Array | None:
        """Returns the wrenches that the last `write_observations` computed, unclipped."""
        return self._forces if self.reports_contact_forces else None

    def fallen(self) -> Mask | None:
        """Compares the torso's height with its bounds."""
        return if_any(outside(self.engine.qpos[:, 2], (1.0, 2.0)))

    def position(self) -> Array:
        """Returns x and y of the centre of mass, `(N, 2)`."""
        return self.engine.derived("subtree_com")[:, self._torso, :2].copy()


class SimpleHumanoid(ShortBody):
    """N simple humanoids of rllab: ten motors, 39.9 kg."""

    actions = tuple(
        Row(1, f"torque at the {motor}, × {100 if i < 6 else 20}", "N·m")
        for i, motor in enumerate(_SIMPLE_MOTORS)
    )
    healthy_height = (0.8, 2.0)
    start_text = (
        "The model's default pose (torso at 1.4 m) with noise 0.01 · N(0, 1) on every position (including the"
        " quaternion). Every velocity is 0.1 · N(0, 1)."
    )
    end_text = "When the torso's height leaves [0.8, 2.0] m, or a simulation diverges."

    def __init__(self, num: int, num_threads: int, frame_skip: int = 1) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
        """
        super().__init__(own_spec("simple_humanoid.xml"), num, num_threads, frame_skip)

    @property
    def state_rows(self) -> tuple[Row, ...]:
        """Positions and velocities."""
        return (
            Row(3, "world position of the torso", "m"),
            Row(4, "orientation of the torso, quaternion w, x, y, z", "1"),
            Row(
                10,
                "joint angles: right hip (2), knee; left hip (2), knee; right shoulder (2); left (2)",
                "rad",
            ),
            Row(3, "velocity of the torso in the world", "m/s"),
            Row(3, "angular velocity of the torso in its own frame", "rad/s"),
            Row(10, "joint velocities, in the same order", "rad/s"),
        )
