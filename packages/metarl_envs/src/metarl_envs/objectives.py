"""What a family rewards: the terms of its reward, and success.

An objective sees what a body reports of its motion, the applied actions and the task parameters, all
batched over N simulations, and returns one array per reward term. It knows no simulator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(slots=True)
class Motion:
    """What a body did in one step.

    Attributes:
        position: of the body's tracked point after the step, `(N, D)`, in metres.
        velocity: its finite difference over the step, `(N, D)`, in metres per second.
        actions: the applied actions after clipping to [-1, 1], `(N, A)`.
        contact_forces: external wrenches per body, `(N, bodies · 6)`, clipped to [-1, 1], where the
            body was asked for them.
    """

    position: Array
    velocity: Array
    actions: Array
    contact_forces: Array | None = None


@dataclass(slots=True)
class Outcome:
    """What an objective says of a step.

    Attributes:
        progress: the progress term `(N,)`.
        success: which simulations succeed at this step, `(N,)`.
        extras: the values of the objective's `extra_info`, each `(N,)`, if it has any.
    """

    progress: Array
    success: NDArray[np.bool_]
    extras: dict[str, Array] | None = None


class Objective(ABC):
    """The reward of a family: one progress term and the costs that its options switch on.

    Attributes:
        term_names: the names of the reward terms, as `info` has them; the progress term is the first.
    """

    progress_name: ClassVar[str]
    """Name of the progress term; in `info` it is `reward_<progress_name>`."""
    progress_formula: ClassVar[str]
    """The progress term in mathematics, for the documentation page."""
    success_text: ClassVar[str]
    """What counts as success, for the documentation page."""
    extra_info: ClassVar[dict[str, str]] = {}
    """Further `info` keys and what they mean."""

    def __init__(self, control_cost: float = 0.0, contact_cost: float = 0.0) -> None:
        """Sets the costs.

        Args:
            control_cost: weight of the squared actions.
            contact_cost: weight of the squared, clipped contact forces.
        """
        self.control_cost = control_cost
        self.contact_cost = contact_cost
        names = [f"reward_{self.progress_name}"]
        if control_cost:
            names.append("reward_control")
        if contact_cost:
            names.append("reward_contact")
        self.term_names = tuple(names)

    @abstractmethod
    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Returns progress and success of a step.

        Args:
            motion: what the body did.
            tasks: the task parameters, `(N, P)`.
        """

    @abstractmethod
    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns the point of the floor `(2,)` that shows the task in a frame.

        Args:
            position: the tracked point of one simulation, `(D,)`.
            task: its parameters, `(P,)`.
            seconds: since the episode began.
        """

    @property
    def formula(self) -> str:
        """The whole reward in mathematics."""
        parts = [self.progress_formula]
        if self.control_cost:
            parts.append(f"{self.control_cost:g} · Σ a²")
        if self.contact_cost:
            parts.append(f"{self.contact_cost:g} · Σ clip(f, -1, 1)²")
        return " - ".join(parts)

    def costs(self, motion: Motion) -> list[Array]:
        """Returns the cost terms as rewards `(N,)`, in the order of `term_names` after the progress."""
        result = []
        if self.control_cost:
            actions = motion.actions
            result.append(np.vecdot(actions, actions) * -self.control_cost)
        if self.contact_cost:
            forces = motion.contact_forces
            if forces is None:
                raise ValueError("a contact cost needs a body that reports contact forces")
            result.append(np.vecdot(forces, forces) * -self.contact_cost)
        return result


class Velocity(Objective):
    """Run along x at the task's velocity."""

    progress_name = "velocity"
    progress_formula = "-|v_x - velocity|"
    success_text = "the velocity is within 0.2 m/s of the task's (our choice; no original has one)"

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Compares the velocity with the task's."""
        error = np.abs(motion.velocity[:, :1] - tasks)[:, 0]
        return Outcome(-error, error <= 0.2)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns a pacemaker: where the body would be, had it run at the task's velocity."""
        return np.array([task[0] * seconds, 0.0])


class Direction(Objective):
    """Run forward or backward along x, as fast as possible."""

    progress_name = "velocity"
    progress_formula = "direction · v_x"
    success_text = "at least 1 m/s in the task's direction (our choice; no original has one)"

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Takes the velocity in the task's direction."""
        velocity = motion.velocity[:, 0] * tasks[:, 0]
        return Outcome(velocity, velocity >= 1.0)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns a point two metres ahead of the body."""
        return np.array([position[0] + 2.0 * task[0], 0.0])


class Goal(Objective):
    """Go to the task's point in the plane."""

    progress_name = "goal"

    def __init__(
        self,
        norm: int = 2,
        radius: float = 0.2,
        reward: str = "dense",
        control_cost: float = 0.0,
        contact_cost: float = 0.0,
    ) -> None:
        """Chooses the form of the reward.

        Args:
            norm: 1 for the sum of the coordinates' distances, 2 for the Euclidean distance.
            radius: the Euclidean distance that counts as success, in metres.
            reward: `dense`, minus the distance, or `sparse`, 1 - distance within the radius.
            control_cost: weight of the squared actions.
            contact_cost: weight of the squared, clipped contact forces.
        """
        super().__init__(control_cost, contact_cost)
        self.norm = norm
        self.radius = radius
        self.sparse = reward == "sparse"
        distance = "(|x - goal_x| + |y - goal_y|)" if norm == 1 else "‖(x, y) - goal‖"
        # Instances differ in their formulas, so these shadow the class's declarations.
        self.progress_formula = (  # type: ignore[misc]
            f"(1 - {distance} if {distance} ≤ {radius:g} else 0)" if self.sparse else f"-{distance}"
        )
        self.success_text = f"within {radius:g} m of the goal"  # type: ignore[misc]
        if norm == 2:
            self.extra_info = {  # type: ignore[misc]
                "dense_reward": "minus the distance to the goal, whichever reward is selected",
                "sparse_reward": f"1 - distance within {radius:g} m of the goal, else 0, likewise",
            }

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Measures the distance to the goal."""
        delta = motion.position - tasks
        squares = np.vecdot(delta, delta)
        success = squares <= self.radius**2
        if self.norm == 1:
            return Outcome(-np.abs(delta).sum(axis=1), success)
        distance = np.sqrt(squares)
        sparse = np.where(success, 1.0 - distance, 0.0)
        extras = {"dense_reward": -distance, "sparse_reward": sparse}
        return Outcome(sparse.copy() if self.sparse else -distance, success, extras)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns the goal."""
        return task[:2].copy()


OBJECTIVES: dict[str, type[Objective]] = {
    "velocity": Velocity,
    "direction": Direction,
    "goal": Goal,
}
"""Objective name in a specification -> class."""
