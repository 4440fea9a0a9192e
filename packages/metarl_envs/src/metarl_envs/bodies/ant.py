"""The ants: a torso with four legs of two joints each, in three historical versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Ids, Mask, Row, if_any, outside
from metarl_envs.bodies.modelling import (
    compile_with_mass,
    gymnasium_spec,
    halve_margins,
    own_spec,
    use_legacy_capsule_inertia,
)
from metarl_envs.bodies.mujoco_body import InPlane, MujocoBody
from metarl_envs.bodies.rllab import ShortBody
from metarl_envs.simulation.rendering import View

# Joints: hip and ankle of legs 1 to 4, at (+, +), (-, +), (-, -), (+, -); motors in another order.
_MOTORS = ("hip 4", "ankle 4", "hip 1", "ankle 1", "hip 2", "ankle 2", "hip 3", "ankle 3")
_LEG_OF_MOTOR = np.array([4, 4, 1, 1, 2, 2, 3, 3])
_BENT = (0, 1, 0, -1, 0, -1, 0, 1)  # rad; the ankles within their limits
_VELOCITIES = (
    Row(3, "velocity of the torso in the world", "m/s"),
    Row(3, "angular velocity of the torso in its own frame", "rad/s"),
    Row(8, "joint velocities, in the same order", "rad/s"),
)
_POSTURE = (
    Row(4, "orientation of the torso, quaternion w, x, y, z", "1"),
    Row(8, "joint angles: hip and ankle 1, 2, 3, 4", "rad"),
)
_WHOLE = (Row(3, "world position of the torso", "m"), *_POSTURE, *_VELOCITIES)
_NEVER_ENDS = "Only when a simulation diverges (`info['diverged']`)."


def _gymnasium_ant() -> mujoco.MjSpec:
    spec = gymnasium_spec("ant.xml")
    halve_margins(spec)
    return spec


class Ant(InPlane, MujocoBody):
    """N ants on a plane."""

    actions = tuple(Row(1, f"torque at {motor}, × 150", "N·m") for motor in _MOTORS)
    start_text = (
        "The model's default pose (torso at 0.75 m, joints at 0) with noise U[-0.1, 0.1] on every position"
        " (including x, y, z and the quaternion). Every velocity is 0.1 · N(0, 1)."
    )
    info_keys = {  # noqa: RUF012
        "x_position": "position of the torso along x after the step, m",
        "y_position": "position of the torso along y after the step, m",
        "x_velocity": "finite difference of x over the step, m/s",
        "y_velocity": "finite difference of y over the step, m/s",
    }

    def __init__(
        self,
        num: int,
        num_threads: int,
        frame_skip: int = 5,
        contact_terms: bool = False,
        observe_position: bool = True,
        healthy_height: Sequence[float] | None = None,
        inertia: str = "current",
    ) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
            contact_terms: whether to observe contact forces (84 more numbers); the objective receives them.
            observe_position: whether the observation contains the torso's x and y.
            healthy_height: bounds of the torso's height; outside them, the episode ends.
            inertia: rule for the masses and inertias of capsules: that of current MuJoCo (`current`), or that
                of versions before 2.1.2 (`legacy`).
        """
        spec = _gymnasium_ant()
        if inertia == "legacy":
            use_legacy_capsule_inertia(spec)
        model = compile_with_mass(spec)
        super().__init__(model, num, num_threads, frame_skip, contact_forces=contact_terms)
        self.reports_contact_forces = contact_terms
        self._forces = np.zeros((num, model.nbody * 6))
        self._first = 0 if observe_position else 2
        self._healthy_height = healthy_height
        self.end_text = (
            _NEVER_ENDS
            if healthy_height is None
            else f"When the torso's height leaves [{healthy_height[0]}, {healthy_height[1]}] m,"
            " or a simulation diverges."
        )

    @property
    def observations(self) -> tuple[Row, ...]:
        """Positions and velocities; with the contact terms, the clipped wrenches on every body."""
        first = (Row(3, "world position of the torso", "m"),)
        if self._first:
            first = (Row(1, "height of the torso", "m"),)
        rows: tuple[Row, ...] = (*first, *_POSTURE, *_VELOCITIES)
        if self.reports_contact_forces:
            rows += (Row(84, "contact torque and force on 14 bodies, clipped to [-1, 1]", "N·m, N"),)
        return rows

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes positions, velocities and, if selected, the clipped contact wrenches."""
        split = 15 - self._first
        out[:, :split] = self.engine.qpos[:, self._first :]
        out[:, split : split + 14] = self.engine.qvel
        if self.reports_contact_forces:
            forces = self.engine.contact_forces().reshape(self.num, -1)
            self._forces = np.clip(forces, -1.0, 1.0)
            out[:, split + 14 : split + 98] = self._forces

    def fallen(self) -> Mask | None:
        """Compares the torso's height with its bounds."""
        bounds = self._healthy_height
        return None if bounds is None else if_any(outside(self.engine.qpos[:, 2], bounds))

    def contact_forces(self) -> Array | None:
        """Returns the wrenches that the last `write_observations` computed."""
        return self._forces if self.reports_contact_forces else None

    def position(self) -> Array:
        """Returns x and y of the torso, `(N, 2)`."""
        return self.engine.qpos[:, :2].copy()


class AntShort(ShortBody):
    """N ants of the rllab lineage: inertias of an older engine, softer contacts, steps of 0.02 s.

    If `dynamics` is set, the task parameter of that name says whether it is active. `low_friction` scales the
    friction of every geom, including the floor's, because a contact uses the larger of two coefficients.
    `crippled` disables both motors of a leg.
    """

    actions = Ant.actions
    healthy_height = (0.2, 1.0)
    start_text = (
        "The torso at 0.55 m and ankles bent by 1 rad, with noise 0.01 · N(0, 1) on every position (including"
        " the quaternion). Every velocity is 0.1 · N(0, 1)."
    )
    end_text = "When the torso's height leaves [0.2, 1.0] m, or a simulation diverges."
    state_rows = _WHOLE
    middle_rows = (Row(9, "orientation of the torso, rotation matrix by rows", "1"),)

    def __init__(
        self,
        num: int,
        num_threads: int,
        frame_skip: int = 1,
        dynamics: str | None = None,
        friction: float = 0.5,
        leg: int = 4,
    ) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.02 s per step.
            dynamics: None, `low_friction` or `crippled`.
            friction: factor on all friction coefficients if friction is low.
            leg: the leg that is disabled by `crippled`, 1 to 4.
        """
        # rllab's file differs from Gymnasium's in the time step and the contacts' impedance.
        spec = _gymnasium_ant()
        spec.option.timestep = 0.02
        for geom in spec.geoms:
            geom.solimp[:3] = (0.8, 0.8, 0.01)
        use_legacy_capsule_inertia(spec)
        super().__init__(spec, num, num_threads, frame_skip, start=(0, 0, 0.55, 1, 0, 0, 0, *_BENT))
        self._torso = self.model.body("torso").id
        self.engine.derived("xmat")
        self._dynamics = dynamics
        self._friction = friction
        self._dead_motors = leg == _LEG_OF_MOTOR
        if dynamics == "low_friction":
            self._full_friction = self.model.geom_friction.copy()
            self.engine.vary("geom_friction")

    @property
    def task_parameters(self) -> Mapping[str, float | None]:
        """Whether the dynamics holds, if there is one."""
        return {} if self._dynamics is None else {self._dynamics: None}

    def set_tasks(self, ids: Ids, vectors: Array) -> None:
        """Sets the friction, if the family varies it."""
        if self._dynamics == "low_friction":
            factors = np.where(vectors[:, 0] > 0, self._friction, 1.0)
            self.engine.vary("geom_friction")[ids] = self._full_friction * factors[:, None, None]

    def actuate(self, actions: Array, vectors: Array) -> Array:
        """Sets the actions of a disabled leg to zero; costs are computed from the result."""
        if self._dynamics != "crippled":
            return actions
        return np.where((vectors > 0) & self._dead_motors, 0.0, actions)

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the observation, including the torso's rotation matrix."""
        super().write_observations(out)
        out[:, 29:38] = self.engine.derived("xmat")[:, self._torso]


class SmallAnt(InPlane, MujocoBody):
    """N small ants of TESP, with velocity servos and a starting state without noise."""

    actions = tuple(Row(1, f"servo velocity at {motor}, × 50", "rad/s") for motor in _MOTORS)
    position_noise = velocity_noise = 0.0
    view: ClassVar[View] = View(distance=3.0, elevation=-35.0, marker=0.08)
    start_text = "The torso at (0, 0, 0.25) m, ankles bent by 1 rad, at rest, without noise."
    info_keys = Ant.info_keys
    observations = _WHOLE

    def __init__(self, num: int, num_threads: int, frame_skip: int = 5, termination: str = "never") -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.01 s per step.
            termination: `never`, or `legacy`: an episode ends when the torso's height leaves [0.15, 0.45] m.
        """
        spec = own_spec("small_ant.xml")
        use_legacy_capsule_inertia(spec)
        model = compile_with_mass(spec, 24.0)
        super().__init__(model, num, num_threads, frame_skip, start=(0, 0, 0.25, 1, 0, 0, 0, *_BENT))
        self._healthy_height = (0.15, 0.45) if termination == "legacy" else None
        self.end_text = (
            f"{_NEVER_ENDS} With `termination='legacy'`, also when the goal is reached or the torso's"
            " height leaves [0.15, 0.45] m."
        )

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes positions and velocities."""
        out[:, :15] = self.engine.qpos
        out[:, 15:29] = self.engine.qvel

    def fallen(self) -> Mask | None:
        """Compares the torso's height with its bounds."""
        bounds = self._healthy_height
        return None if bounds is None else if_any(outside(self.engine.qpos[:, 2], bounds))

    def position(self) -> Array:
        """Returns x and y of the torso, `(N, 2)`."""
        return self.engine.qpos[:, :2].copy()
