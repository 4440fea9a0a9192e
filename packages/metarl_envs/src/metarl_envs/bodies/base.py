"""The interface of a body: N copies of one robot, stepped together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ids = NDArray[np.int64]


def outside(values: NDArray[np.floating], bounds: Sequence[float]) -> Mask:
    """Returns which values lie outside closed bounds; NaN does."""
    result: Mask = ~((values >= bounds[0]) & (values <= bounds[1]))
    return result


def if_any(mask: Mask) -> Mask | None:
    """Returns the mask, or None if it selects nothing."""
    return mask if np.count_nonzero(mask) else None


@dataclass(frozen=True)
class Row:
    """One row of a documentation table of actions or observations."""

    size: int
    what: str
    unit: str


class Body(ABC):
    """N copies of one robot: initial states, dynamics and observations.

    A subclass implements the robot once, batched over N simulations. Actions are already clipped to [-1, 1].

    Attributes:
        num: the number of simulations N.
        dt: seconds per step.
    """

    actions: ClassVar[tuple[Row, ...]]
    """The action table."""
    start_text: str
    """The distribution of starting states."""
    end_text: str
    """When an episode terminates (the time limit truncates)."""
    info_keys: ClassVar[dict[str, str]] = {}
    """The body's keys of `info`, and their meanings."""

    reports_contact_forces: bool = False
    """Whether `contact_forces` returns an array."""

    num: int
    dt: float

    @property
    @abstractmethod
    def observations(self) -> tuple[Row, ...]:
        """The observation table, without the task."""

    @property
    def task_parameters(self) -> Mapping[str, float | None]:
        """The task parameters that the body reads, in the order in which it gets them.

        Name -> the value where a family's tasks do not have the parameter; None where they must have it. By
        default there are none: the task is the objective's.
        """
        return {}

    @property
    @abstractmethod
    def diverged(self) -> Mask | None:
        """Which simulations became unstable in the last `advance`, `(N,)`, or None for none."""

    @abstractmethod
    def start(self, ids: Ids, generators: Sequence[np.random.Generator]) -> None:
        """Puts simulations into a starting state.

        Args:
            ids: the simulations, sorted, `(n,)`.
            generators: one per entry of `ids`; simulation `ids[k]` uses only `generators[k]`.
        """

    @abstractmethod
    def advance(self, actions: Array, ids: Ids | None) -> None:
        """Advances simulations by one step.

        Args:
            actions: `(N, A)`, clipped to [-1, 1]; the rows of other simulations are ignored.
            ids: the simulations, or None for all.
        """

    @abstractmethod
    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the observations of all simulations into `out`, `(N, O)`."""

    @abstractmethod
    def position(self) -> Array:
        """Returns the tracked point of all simulations, a fresh `(N, D)`."""

    def velocity(self, before: Array, after: Array) -> Array:
        """Returns the velocity over the last step, `(N, D)`.

        Args:
            before: the tracked point before the step, `(N, D)`.
            after: the tracked point after it, `(N, D)`.
        """
        return (after - before) / self.dt

    def actuate(self, actions: Array, vectors: Array) -> Array:
        """Returns the actions that reach the motors, `(N, A)`; costs are computed from them.

        Args:
            actions: `(N, A)`, clipped to [-1, 1].
            vectors: the values of `task_parameters`, `(N, R)`.
        """
        return actions

    def fallen(self) -> Mask | None:
        """Returns which simulations are in a state that ends their episode, `(N,)`, or None for none."""
        return None

    def set_tasks(self, ids: Ids, vectors: Array) -> None:  # noqa: B027  # most bodies have one physics
        """Sets the physics of simulations to that of their tasks.

        It is called where the family's tasks have any of `task_parameters`.

        Args:
            ids: the simulations, sorted, `(n,)`.
            vectors: their values of `task_parameters`, `(n, R)`.
        """

    def contact_forces(self) -> Array | None:
        """Returns contact wrenches per body clipped to [-1, 1], `(N, F)`, if the body reports them."""
        return None

    def info(self, position: Array, velocity: Array) -> dict[str, Array]:
        """Returns the values of `info_keys`, each a fresh `(N,)`.

        By default, the keys denote the first coordinates of the tracked point, in order.
        """
        return {name: position[:, i].copy() for i, name in enumerate(self.info_keys)}

    @abstractmethod
    def get_state(self) -> Array:
        """Returns the states, a fresh `(N, S)`."""

    @abstractmethod
    def set_state(self, state: Array) -> None:
        """Restores states from `get_state`, bit for bit."""

    @property
    def model(self) -> mujoco.MjModel | None:
        """The compiled model, or None if the body does not use MuJoCo."""
        return None

    @abstractmethod
    def frame(self, index: int, goal: Array | None, height: int, width: int) -> NDArray[np.uint8]:
        """Draws one simulation, `(height, width, 3)`.

        Args:
            index: the simulation.
            goal: the point to mark, `(2,)` or `(3,)` in metres, or None.
            height: in pixels.
            width: in pixels.
        """

    def close(self) -> None:  # noqa: B027  # most bodies hold nothing
        """Frees the resources of the body."""
