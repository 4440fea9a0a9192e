"""Distributions of task parameters, as functions of uniform numbers.

A distribution maps uniform numbers in [0, 1) to parameters. The same definition is used for the frozen tables
(with a counter-based generator) and for sampling of new tasks (with the caller's generator).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from metarl_envs.families import schema
from metarl_envs.families.schema import SpecError

Array = NDArray[np.float64]


class Distribution(ABC):
    """A distribution of task parameters."""

    keys: ClassVar[Mapping[str, schema.Key]]
    """Keys of its table in a specification, without the kind."""
    size: ClassVar[int | None] = None
    """Number of its parameters; None if its table determines it."""
    discrete: ClassVar[bool] = False
    """Whether it has finitely many values, so that splits cannot be disjoint."""

    @property
    @abstractmethod
    def uniforms(self) -> int:
        """How many uniforms one draw takes."""

    @classmethod
    @abstractmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Returns the distribution of a table in a specification, which has the right keys.

        Args:
            where: the table's file and path, for messages.
            table: the table.
            size: the number P of task parameters.

        Raises:
            SpecError: the numbers are not those of a distribution over P parameters.
        """

    @abstractmethod
    def from_uniforms(self, u: Array) -> Array:
        """Maps uniforms `(n, uniforms)` in [0, 1) to parameters `(n, P)`."""

    @abstractmethod
    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which rows of `(n, P)` lie in the support, as `(n,)`."""

    @abstractmethod
    def describe(self) -> str:
        """Returns a formula or short description of the distribution."""

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Draws `n` parameters, `(n, P)`."""
        return self.from_uniforms(rng.random((n, self.uniforms)))


@dataclass(frozen=True)
class Uniform(Distribution):
    """Independent uniform numbers, `low <= x < high` per parameter."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    keys = MappingProxyType({"low": schema.numbers(), "high": schema.numbers()})

    @property
    def uniforms(self) -> int:
        """One per parameter."""
        return len(self.low)

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads the bounds."""
        low, high = tuple(map(float, table["low"])), tuple(map(float, table["high"]))
        if len(low) != size or len(high) != size:
            raise SpecError(f"{where}.low and .high must have {size} numbers each")
        if any(lo >= hi for lo, hi in zip(low, high, strict=True)):
            raise SpecError(f"{where}.low must be below .high in every element")
        return cls(low, high)

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, P)` uniforms onto the box."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return np.asarray(low + u * (high - low))

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which rows lie in the closed box."""
        inside = (parameters >= np.asarray(self.low)) & (parameters <= np.asarray(self.high))
        return np.asarray(inside.all(axis=1))

    def describe(self) -> str:
        """Returns the intervals."""
        return " × ".join(f"U[{lo:g}, {hi:g}]" for lo, hi in zip(self.low, self.high, strict=True))


@dataclass(frozen=True)
class Disc(Distribution):
    """Points `(x, y)` uniform in area over a disc: angle U[0, 2π), radius R·√U."""

    radius: float
    keys = MappingProxyType({"radius": schema.number()})
    size = 2
    uniforms = 2

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads the radius."""
        return cls(_radius(where, table))

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, 2)` uniforms (angle, area) onto the disc."""
        angle, distance = 2.0 * np.pi * u[:, 0], self.radius * np.sqrt(u[:, 1])
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which points lie in the closed disc."""
        return np.asarray(np.hypot(parameters[:, 0], parameters[:, 1]) <= self.radius)

    def describe(self) -> str:
        """Returns the radius and the distribution."""
        return f"uniform in area over the disc of radius {self.radius:g}"


@dataclass(frozen=True)
class Arc(Distribution):
    """Points `(x, y)` on a circle, the angle uniform between two bounds in radians."""

    radius: float
    low: float
    high: float
    keys = MappingProxyType({"radius": schema.number(), "low": schema.number(), "high": schema.number()})
    size = 2
    uniforms = 1

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads radius and angles."""
        radius = _radius(where, table)
        if not 0 < table["high"] - table["low"] <= 2 * np.pi:
            raise SpecError(f"{where}.high - .low must be in (0, 2π]")
        return cls(radius, float(table["low"]), float(table["high"]))

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, 1)` uniforms onto the arc."""
        return self.at(self.low + u[:, 0] * (self.high - self.low))

    def at(self, angle: Array) -> Array:
        """Returns the points `(n, 2)` at angles `(n,)`."""
        return np.stack([self.radius * np.cos(angle), self.radius * np.sin(angle)], axis=1)

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which points lie on the arc, up to rounding."""
        angle = np.arctan2(parameters[:, 1], parameters[:, 0])
        angle = np.where(angle < self.low - 1e-9, angle + 2.0 * np.pi, angle)
        distance = np.hypot(parameters[:, 0], parameters[:, 1])
        on_circle = np.abs(distance - self.radius) <= 1e-9 * self.radius
        return np.asarray(on_circle & (angle >= self.low - 1e-9) & (angle <= self.high + 1e-9))

    def describe(self) -> str:
        """Returns radius and angles."""
        return f"circle of radius {self.radius:g}, angle U[{self.low:.6g}, {self.high:.6g}] rad"


@dataclass(frozen=True)
class _BetweenRadii(Distribution):
    """Points `(x, y)` between two distances from the origin."""

    inner: float
    outer: float
    keys = MappingProxyType({"inner": schema.number(), "outer": schema.number()})
    size = 2
    uniforms = 2

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads the radii."""
        if not 0 <= table["inner"] < table["outer"]:
            raise SpecError(f"{where} must have 0 <= inner < outer")
        return cls(float(table["inner"]), float(table["outer"]))

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which points lie in the closed ring, up to rounding."""
        distance = np.hypot(parameters[:, 0], parameters[:, 1])
        rounding = 1e-9 * max(1.0, self.outer)
        return np.asarray((distance >= self.inner - rounding) & (distance <= self.outer + rounding))


@dataclass(frozen=True)
class Annulus(_BetweenRadii):
    """Points `(x, y)` uniform in area over a ring: angle U[0, 2π), radius √U[r₁², r₂²]."""

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, 2)` uniforms (angle, area) onto the ring."""
        angle = 2.0 * np.pi * u[:, 0]
        distance = np.sqrt(self.inner**2 + u[:, 1] * (self.outer**2 - self.inner**2))
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)

    def describe(self) -> str:
        """Returns the radii and the distribution."""
        return f"uniform in area over the ring of radii {self.inner:g} to {self.outer:g}"


@dataclass(frozen=True)
class Power(Distribution):
    """Independent multipliers `base ** U[low, high]`, with a base per parameter."""

    bases: tuple[float, ...]
    low: float
    high: float
    keys = MappingProxyType({"bases": schema.numbers(), "low": schema.number(), "high": schema.number()})

    @property
    def uniforms(self) -> int:
        """One per parameter."""
        return len(self.bases)

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads bases and exponents."""
        if len(table["bases"]) != size or min(table["bases"]) <= 1:
            raise SpecError(f"{where}.bases must hold {size} numbers above 1")
        if table["low"] >= table["high"]:
            raise SpecError(f"{where}.low must be below .high")
        return cls(tuple(map(float, table["bases"])), float(table["low"]), float(table["high"]))

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, P)` uniforms to multipliers."""
        return np.asarray(np.asarray(self.bases) ** (self.low + u * (self.high - self.low)))

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which rows lie between the smallest and largest multipliers, up to rounding."""
        exponents = np.log(parameters) / np.log(np.asarray(self.bases))
        return np.asarray(((exponents >= self.low - 1e-9) & (exponents <= self.high + 1e-9)).all(axis=1))

    def describe(self) -> str:
        """Returns the formula."""
        bases = ", ".join(f"{base:g}" for base in sorted(set(self.bases)))
        return f"independent multipliers b^U[{self.low:g}, {self.high:g}], b = {bases}"


@dataclass(frozen=True)
class Choice(Distribution):
    """Finitely many equally likely members."""

    values: tuple[tuple[float, ...], ...]
    keys = MappingProxyType({"values": schema.number_lists()})
    discrete = True
    uniforms = 1

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads the members."""
        values = tuple(tuple(map(float, v)) for v in table["values"])
        if any(len(v) != size for v in values):
            raise SpecError(f"{where}.values must hold lists of {size} numbers")
        if len(set(values)) != len(values):
            raise SpecError(f"{where}.values must not repeat a member")
        return cls(values)

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, 1)` uniforms to members."""
        # u < 1 in exact arithmetic; the minimum is needed because the product is rounded.
        index = np.minimum((u[:, 0] * len(self.values)).astype(np.int64), len(self.values) - 1)
        return np.asarray(self.values, dtype=np.float64)[index]

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which rows are members."""
        members = np.asarray(self.values, dtype=np.float64)
        return np.asarray((parameters[:, None, :] == members[None]).all(axis=2).any(axis=1))

    def describe(self) -> str:
        """Returns the members."""
        members = (
            f"{v[0]:g}" if len(v) == 1 else "(" + ", ".join(f"{x:g}" for x in v) + ")" for v in self.values
        )
        return "one of {" + ", ".join(members) + "}"


@dataclass(frozen=True)
class Ring(_BetweenRadii):
    """Points `(x, y)` with angle U[0, 2π) and distance U[inner, outer]; denser near the centre."""

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, 2)` uniforms (angle, distance) onto the ring."""
        angle, distance = 2.0 * np.pi * u[:, 0], self.inner + u[:, 1] * (self.outer - self.inner)
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)

    def describe(self) -> str:
        """Returns the bounds."""
        return f"angle U[0, 2π), distance U[{self.inner:g}, {self.outer:g}]"


@dataclass(frozen=True)
class Pair(Distribution):
    """Two points `(x1, y1, x2, y2)` in a square room, with bounds on their distance.

    The offset of the second point from the first is uniform in area over an annulus, and the first is uniform
    over the positions where both are in the room. No draw is rejected, so each uses as many uniforms.
    """

    half_width: float
    nearest: float
    farthest: float
    keys = MappingProxyType(
        {"half_width": schema.number(), "nearest": schema.number(), "farthest": schema.number()}
    )
    size = 4
    uniforms = 4

    @classmethod
    def read(cls, where: str, table: Mapping[str, Any], size: int) -> Self:
        """Reads room and distances."""
        half_width, nearest, farthest = (float(table[k]) for k in ("half_width", "nearest", "farthest"))
        if not 0 <= nearest < farthest < half_width:
            raise SpecError(f"{where} must have 0 <= nearest < farthest < half_width")
        return cls(half_width, nearest, farthest)

    def from_uniforms(self, u: Array) -> Array:
        """Maps `(n, 4)` uniforms (angle, area, x, y) to pairs."""
        angle = 2.0 * np.pi * u[:, 0]
        distance = np.sqrt(self.nearest**2 + u[:, 1] * (self.farthest**2 - self.nearest**2))
        offset = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
        low = np.maximum(-self.half_width, -self.half_width - offset)
        high = np.minimum(self.half_width, self.half_width - offset)
        first = low + u[:, 2:] * (high - low)
        return np.concatenate([first, first + offset], axis=1)

    def contains(self, parameters: Array) -> NDArray[np.bool_]:
        """Returns which pairs are in the room and have an allowed distance, up to rounding."""
        rounding = 1e-9 * self.half_width
        inside = (np.abs(parameters) <= self.half_width + rounding).all(axis=1)
        apart = np.hypot(parameters[:, 2] - parameters[:, 0], parameters[:, 3] - parameters[:, 1])
        return np.asarray(inside & (apart >= self.nearest - rounding) & (apart <= self.farthest + rounding))

    def describe(self) -> str:
        """Returns the room and the distances."""
        room = f"[-{self.half_width:g}, {self.half_width:g}]²"
        return f"two points in {room}, {self.nearest:g} to {self.farthest:g} apart, offset uniform in area"


def _radius(where: str, table: Mapping[str, Any]) -> float:
    if table["radius"] <= 0:
        raise SpecError(f"{where}.radius must be positive")
    return float(table["radius"])


KINDS: Mapping[str, type[Distribution]] = {
    "uniform": Uniform,
    "disc": Disc,
    "annulus": Annulus,
    "ring": Ring,
    "pair": Pair,
    "power": Power,
    "arc": Arc,
    "choice": Choice,
}
"""Kind in a specification -> class."""


def parse(file: str, where: str, table: Mapping[str, Any], size: int) -> Distribution:
    """Reads a distribution from its table in a specification.

    Args:
        file: the file's name, for messages.
        where: the table's dotted path.
        table: the table, with a `kind` and that kind's keys.
        size: the number P of task parameters.

    Returns:
        The distribution, over P parameters.

    Raises:
        SpecError: the table is malformed or has another number of parameters.
    """
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise SpecError(f"{file}: {where}.kind must be one of {schema.listed(KINDS)}, got {kind!r}")
    found = KINDS[kind]
    schema.check(file, where, table, {"kind": schema.text(), **found.keys})
    if found.size is not None and size != found.size:
        raise SpecError(f"{file}: {where}.kind {kind!r} needs {found.size} parameters, not {size}")
    return found.read(f"{file}: {where}", table, size)
