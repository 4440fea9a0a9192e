"""Shared code of the MuJoCo bodies: the engine, noise of the initial state, frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Body, Ids, Mask
from metarl_envs.simulation.batch_engine import make_engine
from metarl_envs.simulation.rendering import Renderer, View


class MujocoBody(Body):
    """A body with a MuJoCo model.

    By default, the initial state is that of the model with noise, uniform on every position and Gaussian on
    every velocity, as in Gymnasium. Subclasses can change this.
    """

    position_noise: ClassVar[float] = 0.1
    """Half-width of uniform noise, or standard deviation of Gaussian noise, on the initial positions."""
    velocity_noise: ClassVar[float] = 0.1
    """The same for the initial velocities."""
    gaussian_positions: ClassVar[bool] = False
    """Whether the positions' noise is Gaussian."""
    gaussian_velocities: ClassVar[bool] = True
    """Whether the velocities' noise is Gaussian."""
    view: ClassVar[View] = View()
    """Camera view of rendered frames."""

    def __init__(
        self,
        model: mujoco.MjModel,
        num: int,
        num_threads: int,
        frame_skip: int,
        *,
        start: Sequence[float] | None = None,
        fresh: bool = False,
        contact_forces: bool = False,
    ) -> None:
        """Builds the simulations.

        Args:
            model: the compiled model.
            num: the number of simulations N.
            num_threads: number of threads for stepping.
            frame_skip: substeps per step.
            start: the initial positions without noise; by default those of the model.
            fresh: whether to compute derived fields at the new state, see `Engine`.
            contact_forces: whether to compute contact forces.
        """
        self.num = num
        self.engine = make_engine(
            model, num, frame_skip, num_threads, contact_forces=contact_forces, fresh=fresh
        )
        self.dt = float(model.opt.timestep) * frame_skip
        self._start = self.model.qpos0.copy() if start is None else np.asarray(start, dtype=np.float64)
        # Controls are symmetric in every body here; actions are in [-1, 1].
        self._control_range = self.model.actuator_ctrlrange[:, 1].copy()
        self._unit_controls = bool((self._control_range == 1.0).all())
        self._renderer: Renderer | None = None

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self.engine.model

    @property
    def diverged(self) -> Mask | None:
        """Which simulations became unstable in the last `advance`, or None."""
        return self.engine.diverged

    def start(self, ids: Ids, generators: Sequence[np.random.Generator]) -> None:
        """Draws the noise of each simulation from its own generator."""
        qpos, qvel = np.empty((len(ids), self.model.nq)), np.empty((len(ids), self.model.nv))
        for k, generator in enumerate(generators):
            qpos[k] = _noise(generator, self.model.nq, self.position_noise, self.gaussian_positions)
            qvel[k] = _noise(generator, self.model.nv, self.velocity_noise, self.gaussian_velocities)
        self.engine.place(ids, qpos + self._start, qvel)

    def advance(self, actions: Array, ids: Ids | None) -> None:
        """Applies the actions as controls and steps."""
        self.engine.ctrl[:] = actions if self._unit_controls else actions * self._control_range
        self.engine.step(ids)

    def get_state(self) -> Array:
        """Returns MuJoCo's integration state of every simulation."""
        return self.engine.get_state()

    def set_state(self, state: Array) -> None:
        """Restores MuJoCo's integration state of every simulation."""
        self.engine.set_state(state)

    def frame(self, index: int, goal: Array | None, height: int, width: int) -> NDArray[np.uint8]:
        """Renders off screen, with a camera that follows the body."""
        if self._renderer is None:
            self._renderer = Renderer(self.model, self.view)
        return self._renderer.draw(self.engine.data(index), goal, height, width)

    def close(self) -> None:
        """Frees the simulations."""
        self.engine.close()


class InPlane:
    """Info of bodies that report position and velocity along x and y."""

    def info(self, position: Array, velocity: Array) -> dict[str, Array]:
        """Returns position and velocity in the plane."""
        return {
            "x_position": position[:, 0].copy(),
            "y_position": position[:, 1].copy(),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
        }


class OnLine:
    """Info of bodies that report position and velocity along x."""

    def info(self, position: Array, velocity: Array) -> dict[str, Array]:
        """Returns position and velocity along x."""
        return {"x_position": position[:, 0].copy(), "x_velocity": velocity[:, 0]}


def _noise(generator: np.random.Generator, size: int, scale: float, gaussian: bool) -> Array:
    """Returns noise `(size,)`; draws no random numbers if the scale is zero."""
    if not scale:
        return np.zeros(size)
    if gaussian:
        return generator.standard_normal(size) * scale
    return generator.uniform(-scale, scale, size)
