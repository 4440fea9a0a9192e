"""Bodies composed from dm_control's walkers, arms and arenas, and stepped without dm_control.

dm_control builds the model; only the parity tests use its `Physics`, composer and suite. A composer's step is
`mj_step2`, n - 1 `mj_step`, `mj_step1`. This gives the same states as n `mj_step`, with derived fields at the
new state. A `fresh` engine computes the same, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Ids
from metarl_envs.bodies.mujoco_body import MujocoBody
from metarl_envs.simulation.headless import prefer_headless_rendering

# dm_control chooses its renderer when it is imported, which is after this.
prefer_headless_rendering()

_PHYSICS_STEP = 0.005  # s; dm_control's locomotion tasks


def compile_composed(root: Any, sensors: Iterable[str], timestep: float = _PHYSICS_STEP) -> mujoco.MjModel:
    """Compiles a composed model.

    Args:
        root: the root of the `dm_control.mjcf` tree.
        sensors: names of the sensors that are read; the others are removed, because they take time in every
            substep and do not affect the state.
        timestep: seconds per substep.
    """
    spec = mujoco.MjSpec.from_string(root.to_xml_string(), assets=root.get_assets())
    read = set(sensors)
    for sensor in list(spec.sensors):
        if sensor.name not in read:
            spec.delete(sensor)
    spec.option.timestep = timestep
    model = spec.compile()
    missing = read - {model.sensor(i).name for i in range(model.nsensor)}
    if missing:
        raise ValueError(f"the composed model has no sensors {sorted(missing)}")
    return model


def composed_once(build: Callable[[], mujoco.MjModel]) -> Callable[[], mujoco.MjModel]:
    """Makes a function compose its model once per process and return a new copy at every call.

    Copies are needed because engines and renderers change a model's options.
    """
    built = cache(build)

    @wraps(build)
    def copied() -> mujoco.MjModel:
        return copy.copy(built())

    return copied


def sensor_columns(model: mujoco.MjModel, names: Iterable[str]) -> NDArray[np.int64]:
    """Returns the indices of some sensors' values in `sensordata`, in the order of the names."""
    columns: list[int] = []
    for name in names:
        sensor = model.sensor(name)
        start, size = int(sensor.adr[0]), int(sensor.dim[0])
        columns += range(start, start + size)
    return np.array(columns)


def body_ids(model: mujoco.MjModel, names: Iterable[str]) -> NDArray[np.int64]:
    """Returns the ids of bodies by their names."""
    return np.array([model.body(name).id for name in names])


def egocentric(offsets: Array, frame: Array) -> Array:
    """Expresses offsets given in world axes in the axes of a frame.

    Products and sums are written out, because the rounding of a matrix product may depend on the number of
    rows.

    Args:
        offsets: `(N, B, 3)`.
        frame: rotation matrices, row by row, `(N, 9)`.

    Returns:
        `(N, B, 3)`.
    """
    axes = frame.reshape(-1, 1, 3, 3)
    x, y, z = offsets[:, :, 0:1], offsets[:, :, 1:2], offsets[:, :, 2:3]
    return np.asarray(x * axes[:, :, 0] + y * axes[:, :, 1] + z * axes[:, :, 2])


def relative_quaternions(frame: Array, quaternions: Array) -> Array:
    """Returns orientations relative to that of a frame.

    Args:
        frame: quaternions `(N, 4)`.
        quaternions: `(N, B, 4)`.

    Returns:
        The conjugate of `frame` times `quaternions`, `(N, B, 4)`.
    """
    w, x, y, z = (frame[:, None, i] for i in range(4))
    x, y, z = -x, -y, -z
    a, b, c, d = (quaternions[:, :, i] for i in range(4))
    return np.stack(
        [
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ],
        axis=2,
    )


class ComposedWalker(MujocoBody):
    """N walkers on a floor. The tracked point is the root body."""

    root: ClassVar[str]
    """Name of the root body."""
    spawn: ClassVar[float]
    """Half-width of the square of initial positions, in metres."""

    def __init__(self, model: mujoco.MjModel, num: int, num_threads: int, frame_skip: int) -> None:
        """Builds the simulations, with derived fields at the new state.

        Args:
            model: the compiled model.
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps per step.
        """
        super().__init__(model, num, num_threads, frame_skip, fresh=True)
        self._root = model.body(self.root).id
        for name in ("xpos", "xmat", "sensordata"):
            self.engine.derived(name)

    def start(self, ids: Ids, generators: Sequence[np.random.Generator]) -> None:
        """Places each walker in its upright pose, at rest."""
        qpos = np.tile(self._start, (len(ids), 1))
        for k, generator in enumerate(generators):
            qpos[k, :2] = generator.uniform(-self.spawn, self.spawn, 2)
        self.engine.place(ids, qpos, np.zeros((len(ids), self.model.nv)))

    def position(self) -> Array:
        """Returns x and y of the root, `(N, 2)`."""
        return self.engine.derived("xpos")[:, self._root, :2].copy()
