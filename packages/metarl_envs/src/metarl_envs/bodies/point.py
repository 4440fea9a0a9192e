"""The point: a position in the plane that moves by the action. It uses no simulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Body, Ids, Mask, Row

_STEP = 0.1  # the largest displacement per step and axis (oyster: point_robot.py)


class Point(Body):
    """N points in the plane: s ← s + 0.1 · a."""

    actions = (
        Row(1, "displacement along x, × 0.1", "m"),
        Row(1, "displacement along y, × 0.1", "m"),
    )
    end_text = "Never."
    info_keys = {  # noqa: RUF012
        "x_position": "position along x after the step, m",
        "y_position": "position along y after the step, m",
    }

    def __init__(self, num: int, num_threads: int, start: str = "square") -> None:
        """Builds the points.

        Args:
            num: number of points.
            num_threads: unused, one thread is enough.
            start: `square`, uniform in [-1, 1]², or `origin`.
        """
        del num_threads
        self.num = num
        self.dt = 1.0
        self._positions = np.zeros((num, 2))
        self._from_square = start == "square"
        self.start_text = "A position uniform in the square [-1, 1]²." if self._from_square else "The origin."

    @property
    def observations(self) -> tuple[Row, ...]:
        """The position."""
        return (Row(2, "position x, y", "m"),)

    @property
    def diverged(self) -> Mask | None:
        """None, because a sum of bounded steps stays finite."""
        return None

    def start(self, ids: Ids, generators: Sequence[np.random.Generator]) -> None:
        """Draws each initial position from its own generator, or uses the origin."""
        if self._from_square:
            for i, generator in zip(ids.tolist(), generators, strict=True):
                self._positions[i] = generator.uniform(-1.0, 1.0, 2)
        else:
            self._positions[ids] = 0.0

    def advance(self, actions: Array, ids: Ids | None) -> None:
        """Adds the displacement."""
        if ids is None:
            self._positions += _STEP * actions
        else:
            self._positions[ids] += _STEP * actions[ids]

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the position."""
        out[:, :2] = self._positions

    def position(self) -> Array:
        """Returns the position, `(N, 2)`."""
        return self._positions.copy()

    def get_state(self) -> Array:
        """Returns the positions."""
        return self._positions.copy()

    def set_state(self, state: Array) -> None:
        """Restores the positions."""
        self._positions[:] = state

    def frame(self, index: int, goal: Array | None, height: int, width: int) -> NDArray[np.uint8]:
        """Draws the square [-1.5, 1.5]² from above, the goal as a green disc, the point as a blue one."""
        image = np.full((height, width, 3), 245, dtype=np.uint8)
        x = np.linspace(-1.5, 1.5, width)[None, :]
        y = np.linspace(1.5, -1.5, height)[:, None]
        lines = (np.abs(x) < 0.006) | (np.abs(y) < 0.006)
        image[np.broadcast_to(lines, (height, width))] = 215
        marks = [(self._positions[index], 0.06, (40, 90, 200))]
        if goal is not None:
            marks.insert(0, (goal, 0.12, (70, 170, 90)))
        for (mx, my), radius, colour in marks:
            image[(x - mx) ** 2 + (y - my) ** 2 < radius**2] = colour
        return image
