"""The rllab lineage: bodies whose velocity is that of their whole-body centre of mass.

MAML and multi-task SLBO define their tasks by the centre of mass of the whole robot, measured at the end of a
step. The observation contains it and its velocity, so reward and termination are functions of (observation,
action, next observation).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Mask, Row, if_any, outside
from metarl_envs.bodies.modelling import compile_with_mass
from metarl_envs.bodies.mujoco_body import InPlane, MujocoBody
from metarl_envs.simulation.motion import Motion


def add_centre_of_mass(spec: mujoco.MjSpec, root: str) -> None:
    """Adds sensors of a subtree's centre of mass and its velocity, which become the model's first two."""
    for kind in (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtSensor.mjSENS_SUBTREELINVEL):
        spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname=root)


class ShortBody(InPlane, MujocoBody):
    """A body of the rllab lineage.

    The observation contains positions, velocities, the `middle_rows`, the centre of mass and its velocity.
    """

    position_noise = 0.01
    gaussian_positions = True
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "x of the centre of mass after the step, m",
        "y_position": "y of the centre of mass after the step, m",
        "x_velocity": "velocity of the centre of mass along x, m/s",
        "y_velocity": "velocity of the centre of mass along y, m/s",
    }
    healthy_height: ClassVar[tuple[float, float] | None] = None
    """Bounds of the third position; outside them, the episode ends. None: no bounds."""

    def __init__(
        self,
        spec: mujoco.MjSpec,
        num: int,
        num_threads: int,
        frame_skip: int,
        start: Sequence[float] | None = None,
        total_mass: float | None = None,
    ) -> None:
        """Builds the simulations.

        Args:
            spec: the model, to which the sensors are added.
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps per step.
            start: the initial positions; by default those of the model.
            total_mass: the total mass to which the robot is scaled, in kg.
        """
        add_centre_of_mass(spec, "torso")
        model = compile_with_mass(spec, total_mass)
        super().__init__(model, num, num_threads, frame_skip, start=start, fresh=True)
        self.engine.derived("sensordata")
        size = sum(row.size for row in self.observations)
        self._centre, self._centre_velocity = slice(size - 6, size - 3), slice(size - 3, size)

    @property
    @abstractmethod
    def state_rows(self) -> tuple[Row, ...]:
        """The observation table's rows of positions and velocities."""

    @property
    def middle_rows(self) -> tuple[Row, ...]:
        """The rows between the velocities and the centre of mass."""
        return ()

    @property
    def observations(self) -> tuple[Row, ...]:
        """Positions, velocities, the middle rows, the centre of mass and its velocity."""
        return (
            *self.state_rows,
            *self.middle_rows,
            Row(3, "centre of mass of the robot", "m"),
            Row(3, "velocity of the centre of mass", "m/s"),
        )

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes everything except the middle rows."""
        nq, nv = self.model.nq, self.model.nv
        out[:, :nq] = self.engine.qpos
        out[:, nq : nq + nv] = self.engine.qvel
        sensors = self.engine.derived("sensordata")
        out[:, self._centre] = sensors[:, :3]
        out[:, self._centre_velocity] = sensors[:, 3:6]

    def position(self) -> Array:
        """Returns the centre of mass, `(N, 3)`."""
        return self.engine.derived("sensordata")[:, :3].copy()

    def velocity(self, before: Array, after: Array) -> Array:
        """Returns the velocity of the centre of mass, `(N, 3)`: a sensor value, not a finite difference."""
        return self.engine.derived("sensordata")[:, 3:6].copy()

    def fallen(self) -> Mask | None:
        """Compares the torso's height with its bounds."""
        if self.healthy_height is None:
            return None
        return if_any(outside(self.engine.qpos[:, 2], self.healthy_height))

    def motion_in(self, next_observation: Array, actions: Array) -> Motion:
        """Reads the motion of a step from the observation after it.

        Args:
            next_observation: `(B, O)`, possibly with the task appended.
            actions: the applied actions, `(B, A)`.
        """
        position, velocity = next_observation[:, self._centre], next_observation[:, self._centre_velocity]
        return Motion(position, velocity, actions)

    def fallen_in(self, next_observation: Array) -> Mask:
        """Returns for which observations `(B, O)` the state ends an episode, `(B,)`."""
        if self.healthy_height is None:
            return np.zeros(len(next_observation), dtype=np.bool_)
        return outside(next_observation[:, 2], self.healthy_height)
