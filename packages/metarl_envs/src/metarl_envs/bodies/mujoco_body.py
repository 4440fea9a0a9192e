"""What the MuJoCo bodies share: an engine, noise around a starting state, frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Body, Ids, Mask
from metarl_envs.engine import make_engine
from metarl_envs.rendering import Renderer


def gymnasium_spec(asset: str) -> mujoco.MjSpec:
    """Reads a model from the assets that Gymnasium installs."""
    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjSpec.from_file(str(folder / asset))


class MujocoBody(Body):
    """A body with a MuJoCo model.

    Its starting state is the model's own with noise: uniform on every position, Gaussian on every
    velocity, as in Gymnasium.
    """

    position_noise = 0.1
    """Half-width of the uniform noise on the starting positions."""
    velocity_noise = 0.1
    """Standard deviation of the Gaussian noise on the starting velocities."""

    def __init__(
        self,
        model: mujoco.MjModel,
        num: int,
        num_threads: int,
        frame_skip: int,
        *,
        contact_forces: bool = False,
    ) -> None:
        """Builds the simulations; see `make_engine`."""
        self.num = num
        self.engine = make_engine(model, num, frame_skip, num_threads, contact_forces=contact_forces)
        self.dt = float(model.opt.timestep) * frame_skip
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
        nq, nv, noise = self.model.nq, self.model.nv, self.position_noise
        qpos, qvel = np.empty((len(ids), nq)), np.empty((len(ids), nv))
        for k, generator in enumerate(generators):
            qpos[k] = generator.uniform(-noise, noise, nq)
            qvel[k] = generator.standard_normal(nv)
        self.engine.place(ids, qpos + self.model.qpos0, qvel * self.velocity_noise)

    def advance(self, actions: Array, ids: Ids | None) -> None:
        """Applies the actions as controls and steps."""
        self.engine.ctrl[:] = actions
        self.engine.step(ids)

    def get_state(self) -> Array:
        """Returns MuJoCo's integration state of every simulation."""
        return self.engine.get_state()

    def set_state(self, state: Array) -> None:
        """Restores MuJoCo's integration state of every simulation."""
        self.engine.set_state(state)

    def frame(self, index: int, goal: Array | None, height: int, width: int) -> NDArray[np.uint8]:
        """Renders off screen, following the body."""
        if self._renderer is None or self._renderer.size != (height, width):
            if self._renderer is not None:
                self._renderer.close()
            self._renderer = Renderer(self.model, height, width)
        return self._renderer.draw(self.engine.data(index), goal)

    def close(self) -> None:
        """Frees the renderer and the simulations."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.engine.close()
