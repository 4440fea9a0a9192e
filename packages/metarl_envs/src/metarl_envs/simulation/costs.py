"""The costs and bonuses that any objective may have, one class each.

A cost is a term of the reward beside the objective's progress, switched on by its weight. To add one, write
its class here and put it into `COSTS`; its option, its reward term and its place in the formula follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from metarl_envs.simulation.motion import Array, Motion


@dataclass(frozen=True)
class Cost(ABC):
    """One further term of a reward.

    Attributes:
        weight: how much it counts; what it is the weight of, a subclass says.
    """

    weight: float
    name: ClassVar[str]
    """The term's name; in `info` it is `reward_<name>`."""
    option: ClassVar[str]
    """The keyword option of an objective that gives the weight."""

    @classmethod
    def options(cls) -> dict[str, str]:
        """Returns the options of an objective that give the fields: that of the weight, `<name>_<field>`."""
        return {cls.option if f.name == "weight" else f"{cls.name}_{f.name}": f.name for f in fields(cls)}

    @property
    @abstractmethod
    def formula(self) -> str:
        """The term in mathematics, with its sign."""

    @abstractmethod
    def reward(self, motion: Motion) -> Array:
        """Returns the term of a step, `(N,)`."""


class ControlCost(Cost):
    """The weight of the squared actions."""

    name, option = "control", "control_cost"

    @property
    def formula(self) -> str:
        """The squared actions."""
        return f"- {self.weight:g} · Σ a²"

    def reward(self, motion: Motion) -> Array:
        """Charges the applied actions."""
        charge: Array = np.vecdot(motion.actions, motion.actions) * -self.weight
        return charge


@dataclass(frozen=True)
class ContactCost(Cost):
    """The weight of the squared contact forces that the body reports.

    Attributes:
        limit: the most that contacts can cost in a step; the option `contact_limit`.
    """

    name, option = "contact", "contact_cost"
    limit: float | None = None

    @property
    def formula(self) -> str:
        """The squared forces, up to the limit."""
        cost = f"{self.weight:g} · Σ f²"
        return f"- {cost}" if self.limit is None else f"- min({cost}, {self.limit:g})"

    def reward(self, motion: Motion) -> Array:
        """Charges the reported forces.

        Raises:
            ValueError: the body reports none.
        """
        forces = motion.contact_forces
        if forces is None:
            raise ValueError("a contact cost needs a body that reports contact forces")
        cost: Array = np.vecdot(forces, forces) * self.weight
        return -cost if self.limit is None else -np.minimum(cost, self.limit)


class DriftCost(Cost):
    """The weight of the squared velocity along y and z."""

    name, option = "drift", "drift_cost"

    @property
    def formula(self) -> str:
        """The squared velocity across."""
        return f"- {self.weight:g} · (v_y² + v_z²)"

    def reward(self, motion: Motion) -> Array:
        """Charges the velocity across."""
        drift = motion.velocity[:, 1:3]
        charge: Array = np.vecdot(drift, drift) * -self.weight
        return charge


class AliveBonus(Cost):
    """A constant that every step earns."""

    name, option = "alive", "alive_bonus"

    @property
    def formula(self) -> str:
        """The constant."""
        return f"+ {self.weight:g}"

    def reward(self, motion: Motion) -> Array:
        """Pays the constant."""
        return np.full(len(motion.actions), self.weight)


class StepCost(Cost):
    """A constant that every step costs."""

    name, option = "step", "step_cost"

    @property
    def formula(self) -> str:
        """The constant."""
        return f"- {self.weight:g}"

    def reward(self, motion: Motion) -> Array:
        """Charges the constant."""
        return np.full(len(motion.actions), -self.weight)


class FallCost(Cost):
    """What ending an episode by a fall costs."""

    name, option = "fall", "fall_cost"

    @property
    def formula(self) -> str:
        """The constant, and when it is due."""
        return f"- {self.weight:g} if fallen"

    def reward(self, motion: Motion) -> Array:
        """Charges those that fell."""
        fallen = np.zeros(len(motion.actions)) if motion.fallen is None else motion.fallen
        return np.asarray(fallen * -self.weight, dtype=np.float64)


COSTS: tuple[type[Cost], ...] = (ControlCost, ContactCost, DriftCost, AliveBonus, StepCost, FallCost)
"""All of them, in the order of the reward's terms."""
COST_OPTIONS = tuple(name for cost in COSTS for name in cost.options())
"""The options that they add to every objective."""


def costs_of(options: Mapping[str, Any]) -> tuple[Cost, ...]:
    """Returns the costs with a weight other than zero, in the order of `COSTS`.

    Args:
        options: values of `COST_OPTIONS`.

    Raises:
        TypeError: an option is unknown.
    """
    if unknown := set(options) - set(COST_OPTIONS):
        raise TypeError(f"there are no costs {sorted(unknown)} (there are: {', '.join(COST_OPTIONS)})")
    return tuple(
        cost(**{field: options[name] for name, field in cost.options().items() if name in options})
        for cost in COSTS
        if options.get(cost.option)
    )
