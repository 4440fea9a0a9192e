"""The planar walker and hopper; the task may set their masses, inertias, damping and friction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Ids, Mask, Row, if_any
from metarl_envs.bodies.modelling import compile_with_mass, gymnasium_spec, halve_margins
from metarl_envs.bodies.mujoco_body import MujocoBody, OnLine

_LARGEST_SPEED = 10.0  # observed velocities are clipped to ±10, as in Gymnasium


class ParameterBody(OnLine, MujocoBody):
    """A planar robot whose task may multiply model parameters.

    There are multipliers of the mass of each body, the three principal inertias of each body, the damping of
    each degree of freedom and the three friction coefficients of each geom. The world and the floor are
    included. The tasks of a family have all, some or none of them; the others are 1.
    """

    asset: ClassVar[str]
    position_noise = velocity_noise = 0.005
    gaussian_velocities = False
    start_text = "The model's default pose with noise U[-0.005, 0.005] on every position and velocity."
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "position of the torso along x after the step, m",
        "x_velocity": "finite difference of `x_position` over the step, m/s",
    }

    def __init__(self, num: int, num_threads: int, frame_skip: int = 4, physics: str = "physical") -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.004 s per step.
            physics: `physical`: a body's inertia is scaled with its mass, the inertia multipliers have no
                effect, and constants that depend on masses are recomputed; `legacy`: each multiplier acts
                independently and nothing is recomputed, as in the original.
        """
        spec = gymnasium_spec(self.asset)
        spec.option.timestep = 0.004
        halve_margins(spec)
        super().__init__(compile_with_mass(spec), num, num_threads, frame_skip)
        self._physical = physics == "physical"
        model = self.model
        self._defaults = {
            name: getattr(model, name).copy()
            for name in ("body_mass", "body_inertia", "dof_damping", "geom_friction")
        }

    @property
    def task_parameters(self) -> Mapping[str, float | None]:
        """The multipliers."""
        return dict.fromkeys(parameter_names(self.model), 1.0)

    def set_tasks(self, ids: Ids, vectors: Array) -> None:
        """Writes the multiplied parameters."""
        model, defaults = self.model, self._defaults
        sizes = (model.nbody, model.nbody * 3, model.nv, model.ngeom * 3)
        mass, inertia, damping, friction = np.split(vectors, np.cumsum(sizes)[:-1], axis=1)
        inertia = mass[:, :, None] if self._physical else inertia.reshape(-1, model.nbody, 3)
        self.engine.vary("body_mass")[ids] = defaults["body_mass"] * mass
        self.engine.vary("body_inertia")[ids] = defaults["body_inertia"] * inertia
        self.engine.vary("dof_damping")[ids] = defaults["dof_damping"] * damping
        self.engine.vary("geom_friction")[ids] = defaults["geom_friction"] * friction.reshape(
            -1, model.ngeom, 3
        )
        if self._physical:
            self.engine.refresh_constants(ids)

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes positions without x, and clipped velocities."""
        split = self.model.nq - 1
        out[:, :split] = self.engine.qpos[:, 1:]
        out[:, split : split + self.model.nv] = np.clip(self.engine.qvel, -_LARGEST_SPEED, _LARGEST_SPEED)

    def position(self) -> Array:
        """Returns x of the root, `(N, 1)`."""
        return self.engine.qpos[:, :1].copy()


def _rows(joints: str, count: int) -> tuple[Row, ...]:
    return (
        Row(1, "height of the torso", "m"),
        Row(1, "pitch of the torso", "rad"),
        Row(count, f"joint angles: {joints}", "rad"),
        Row(2, "velocity of the torso along x and z, clipped to ±10", "m/s"),
        Row(1, "pitch velocity, clipped to ±10", "rad/s"),
        Row(count, "joint velocities, in the same order, clipped to ±10", "rad/s"),
    )


class Walker2d(ParameterBody):
    """N planar walkers."""

    asset = "walker2d.xml"
    actions = tuple(
        Row(1, f"torque at the {side} {joint}, × 100", "N·m")
        for side in ("right", "left")
        for joint in ("thigh", "leg", "foot")
    )
    observations = _rows("right thigh, leg, foot; left thigh, leg, foot", 6)
    end_text = "When 0.8 m < height < 2.0 m and |pitch| < 1 rad is violated, or a simulation diverges."

    def fallen(self) -> Mask | None:
        """Compares height and pitch with their bounds."""
        height, pitch = self.engine.qpos[:, 1], self.engine.qpos[:, 2]
        out: Mask = ~((height > 0.8) & (height < 2.0) & (np.abs(pitch) < 1.0))
        return if_any(out)


class Hopper(ParameterBody):
    """N planar hoppers."""

    asset = "hopper.xml"
    actions = tuple(Row(1, f"torque at the {joint}, × 200", "N·m") for joint in ("thigh", "leg", "foot"))
    observations = _rows("thigh, leg, foot", 3)
    end_text = (
        "When height > 0.7 m or |pitch| < 0.2 rad is violated, when another element of the state is not"
        " within ±100, or when a simulation diverges."
    )

    def fallen(self) -> Mask | None:
        """Compares height, pitch and the rest of the state with their bounds."""
        qpos, qvel = self.engine.qpos, self.engine.qvel
        calm = (np.abs(qpos[:, 2:]) < 100.0).all(axis=1) & (np.abs(qvel) < 100.0).all(axis=1)
        out: Mask = ~((qpos[:, 1] > 0.7) & (np.abs(qpos[:, 2]) < 0.2) & calm)
        return if_any(out)


def parameter_names(model: mujoco.MjModel) -> list[str]:
    """Returns the names of a body's task parameters, in the order of the task vector."""
    bodies = [model.body(i).name for i in range(model.nbody)]
    geoms = [model.geom(i).name or f"geom{i}" for i in range(model.ngeom)]
    joints = [model.joint(i).name for i in model.dof_jntid]
    return [
        *(f"mass_{body}" for body in bodies),
        *(f"inertia_{axis}_{body}" for body in bodies for axis in "xyz"),
        *(f"damping_{joint}" for joint in joints),
        *(f"friction_{kind}_{geom}" for geom in geoms for kind in ("slide", "spin", "roll")),
    ]
