"""The objectives of the families: reward terms and success.

An objective receives the motion that a body reports, the applied actions and the task parameters, all batched
over N simulations. It returns one array per reward term. It does not depend on a simulator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl_envs.simulation.costs import costs_of
from metarl_envs.simulation.motion import Array, Motion


@dataclass(slots=True)
class Outcome:
    """Progress and success of one step.

    Attributes:
        progress: the progress term `(N,)`.
        success: which simulations succeed at this step, `(N,)`.
        extras: the values of the objective's `extra_info`, each `(N,)`, if it has any.
    """

    progress: Array
    success: NDArray[np.bool_]
    extras: dict[str, Array] | None = None


class Objective(ABC):
    """The reward of a family: one progress term, and the cost terms that its options select.

    Attributes:
        costs: the terms beside the progress term.
        term_names: the names of the reward terms, as in `info`; the progress term is first.
    """

    progress_name: ClassVar[str]
    """Name of the progress term; in `info` it is `reward_<progress_name>`."""
    progress_formula: str
    """Formula of the progress term, for the documentation page."""
    success_text: str
    """Definition of success, for the documentation page."""
    task_forms: Mapping[tuple[str, ...], int]
    """The forms that a task may have.

    Names of the parameters that the objective reads, in the order in which it gets them -> the number of
    coordinates of the motion that it compares with them.
    """
    extra_info: Mapping[str, str] = MappingProxyType({})
    """Further `info` keys and their meanings."""
    ends_on_success: bool = False
    """Whether success ends the episode."""

    def __init__(self, **costs: float | None) -> None:
        """Sets costs and bonus.

        Args:
            **costs: weights of the classes in `metarl_envs.simulation.costs`, by the names of their options;
                a zero adds no term.
        """
        self.costs = costs_of(costs)
        self.term_names = tuple(
            f"reward_{name}" for name in (self.progress_name, *(c.name for c in self.costs))
        )

    @abstractmethod
    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Returns progress and success of a step.

        Args:
            motion: the motion of the body.
            tasks: the parameters of one of `task_forms`, `(N, R)`.
        """

    @abstractmethod
    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns the point that marks the task in a frame, on the floor `(2,)` or in space `(3,)`.

        Args:
            position: the tracked point of one simulation, `(D,)`.
            task: its parameters, `(R,)`.
            seconds: time since the start of the episode.
        """

    @property
    def formula(self) -> str:
        """Formula of the complete reward."""
        return " ".join((self.progress_formula, *(cost.formula for cost in self.costs)))

    def terms(self, outcome: Outcome, motion: Motion) -> list[Array]:
        """Returns the reward terms of a step, `(N,)` each, in the order of `term_names`."""
        return [outcome.progress, *(cost.reward(motion) for cost in self.costs)]


class Velocity(Objective):
    """Run at the task's velocity, along x or in the plane."""

    task_forms = MappingProxyType({("velocity",): 1, ("velocity_x", "velocity_y"): 2})
    progress_name = "velocity"
    progress_formula = "-(Σ |v - velocity| over the task's axes)"
    success_text = "within 0.2 m/s of the task's velocity on every axis (our choice; originals define none)"

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Compares the velocity with the task's."""
        axes = tasks.shape[1]
        error = np.abs(motion.velocity[:, :axes] - tasks)
        if axes == 1:
            first = error[:, 0]
            return Outcome(-first, first <= 0.2)
        return Outcome(-error.sum(axis=1), error.max(axis=1) <= 0.2)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns the position of a body that moves at exactly the task's velocity from the start."""
        goal = np.zeros(2)
        goal[: len(task)] = task * seconds
        return goal


class Direction(Objective):
    """Run forward or backward along x, as fast as possible."""

    task_forms = MappingProxyType({("direction",): 1})
    progress_name = "velocity"
    progress_formula = "direction · v_x"
    success_text = "at least 1 m/s in the task's direction (our choice; originals define none)"

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Computes the velocity in the task's direction."""
        velocity = motion.velocity[:, 0] * tasks[:, 0]
        return Outcome(velocity, velocity >= 1.0)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns a point two metres ahead of the body."""
        return np.array([position[0] + 2.0 * task[0], 0.0])


class Direction2D(Objective):
    """Run in the task's direction in the plane, an angle from the x axis, as fast as possible."""

    task_forms = MappingProxyType({("angle",): 2})
    progress_name = "velocity"
    success_text = "at least 1 m/s in the task's direction (our choice; originals define none)"

    def __init__(self, velocity_weight: float = 1.0, **costs: Any) -> None:
        """Sets the weight of the velocity.

        Args:
            velocity_weight: factor of the velocity in the task's direction.
            **costs: costs and bonus, see `Objective`.
        """
        self.velocity_weight = velocity_weight
        weight = "" if velocity_weight == 1.0 else f"{velocity_weight:g} · "
        self.progress_formula = f"{weight}(v_x cos(angle) + v_y sin(angle))"
        super().__init__(**costs)

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Computes the velocity in the task's direction."""
        angle, velocity = tasks[:, 0], motion.velocity
        along = velocity[:, 0] * np.cos(angle) + velocity[:, 1] * np.sin(angle)
        return Outcome(along * self.velocity_weight, along >= 1.0)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns a point two metres ahead of the body."""
        return position[:2] + 2.0 * np.array([np.cos(task[0]), np.sin(task[0])])


class Forward(Objective):
    """Run forward along x, as fast as possible. The task affects only the body's physics."""

    task_forms = MappingProxyType({(): 1})
    progress_name = "velocity"
    progress_formula = "v_x"
    success_text = "at least 1 m/s forward (our choice; originals define none)"

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Computes the velocity along x."""
        velocity = motion.velocity[:, 0].copy()
        return Outcome(velocity, velocity >= 1.0)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns a point two metres ahead of the body."""
        return np.array([position[0] + 2.0, 0.0])


class Goal(Objective):
    """Go to the task's point in the plane."""

    task_forms = MappingProxyType({("goal_x", "goal_y"): 2})
    progress_name = "goal"

    def __init__(
        self,
        norm: int = 2,
        radius: float = 0.2,
        reward: str = "dense",
        report_both: bool = False,
        termination: str = "never",
        **costs: Any,
    ) -> None:
        """Chooses the form of the reward.

        Args:
            norm: 1 for the L1 distance, 2 for the Euclidean distance.
            radius: the Euclidean distance that counts as success, in metres.
            reward: `dense`: the negative distance; `sparse`: 1 - distance within the radius, otherwise 0.
            report_both: whether info contains both rewards.
            termination: `never`, or `legacy`, which ends an episode at success.
            **costs: costs and bonus, see `Objective`.
        """
        super().__init__(**costs)
        self.norm = norm
        self.radius = radius
        self.sparse = reward == "sparse"
        self.report_both = report_both
        self.ends_on_success = termination == "legacy"
        distance = "(|x - goal_x| + |y - goal_y|)" if norm == 1 else "‖(x, y) - goal‖"
        self.progress_formula = (
            f"(1 - {distance} if {distance} ≤ {radius:g} else 0)" if self.sparse else f"-{distance}"
        )
        self.success_text = f"within {radius:g} m of the goal"
        if report_both:
            self.extra_info = {
                "dense_reward": "negative distance to the goal; always reported",
                "sparse_reward": f"1 - distance within {radius:g} m of the goal, else 0; always reported",
            }

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Measures the distance to the goal."""
        delta = motion.position[:, :2] - tasks
        squares = np.vecdot(delta, delta)
        success = squares <= self.radius**2
        if self.norm == 1:
            return Outcome(-np.abs(delta).sum(axis=1), success)
        distance = np.sqrt(squares)
        if not self.report_both:
            return Outcome(self._sparse(distance, success) if self.sparse else -distance, success)
        extras = {"dense_reward": -distance, "sparse_reward": self._sparse(distance, success)}
        return Outcome(extras["sparse_reward" if self.sparse else "dense_reward"].copy(), success, extras)

    @staticmethod
    def _sparse(distance: Array, success: NDArray[np.bool_]) -> Array:
        return np.where(success, 1.0 - distance, 0.0)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns the goal."""
        return task.copy()


class OnTarget(Objective):
    """Bring the tracked point to the task's target, in the plane or in space."""

    progress_name = "target"
    task_forms = MappingProxyType({("target_x", "target_y"): 2, ("target_x", "target_y", "target_z"): 3})

    def __init__(
        self,
        bonus: float = 1.0,
        radius: float = 1.0,
        ends: bool = True,
        reward: str = "sparse",
        **costs: Any,
    ) -> None:
        """Chooses the form of the reward.

        Args:
            bonus: reward of a step on the target.
            radius: the distance that counts as on the target, in metres.
            ends: whether success ends an episode.
            reward: `sparse`, or `dense`: the negative distance replaces the bonus.
            **costs: costs, see `Objective`.
        """
        super().__init__(**costs)
        self.bonus = bonus
        self.radius = radius
        self.ends_on_success = ends
        self.dense = reward == "dense"
        self.progress_formula = "-distance" if self.dense else f"({bonus:g} if on target else 0)"
        self.success_text = f"on target (within {radius:g} m of it)"

    def judge(self, motion: Motion, tasks: Array) -> Outcome:
        """Measures the distance to the target."""
        delta = motion.position[:, : tasks.shape[1]] - tasks
        squares = np.vecdot(delta, delta)
        success = squares <= self.radius**2
        return Outcome(-np.sqrt(squares) if self.dense else success * self.bonus, success)

    def marker(self, position: Array, task: Array, seconds: float) -> Array:
        """Returns the target."""
        return task.copy()


OBJECTIVES: dict[str, type[Objective]] = {
    "velocity": Velocity,
    "direction": Direction,
    "direction_2d": Direction2D,
    "forward": Forward,
    "goal": Goal,
    "on_target": OnTarget,
}
"""Objective name in a specification -> class."""


def objective_class(name: str) -> type[Objective]:
    """Returns the class of an objective in `OBJECTIVES`, or of one given as `package.module:Class`."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    module, attribute = name.split(":")
    found: type[Objective] = getattr(import_module(module), attribute)
    return found
