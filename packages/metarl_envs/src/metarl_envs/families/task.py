"""A task, one member of a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OFF_TABLE = -1
"""The index of a task that is not in the frozen tables."""


@dataclass(frozen=True, order=True)
class Task:
    """One member of a family.

    Immutable, hashable, comparable and picklable. Equal tasks have the same family, split, index and
    parameters.

    Attributes:
        family: the family's id, e.g. `MetaAnt-Goal-v0`.
        split: `train`, `validation`, `test` or `ood`.
        index: the row in the split's frozen table, or -1 for a task that is not in it.
        parameters: the family's task parameters, in the order of `Family.parameter_names`. Numbers of any
            type become Python's, exactly.

    Raises:
        ValueError: a parameter is not a number, the index not an integer, or a name not a string.
    """

    family: str
    split: str
    index: int
    parameters: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or not isinstance(self.split, str):
            raise ValueError(
                f"a task's family and split must be strings, got {self.family!r}, {self.split!r}"
            )
        if isinstance(self.index, bool) or not isinstance(self.index, int | np.integer):
            raise ValueError(f"a task's index must be an integer, got {self.index!r}")
        given: Any = self.parameters  # its type is checked here
        if not isinstance(given, Sequence | np.ndarray) or not all(map(_is_number, given)):
            raise ValueError(f"a task's parameters must be a list of numbers, got {given!r}")
        try:
            parameters = tuple(float(value) for value in given)
        except OverflowError:
            raise ValueError("a task's parameters must be finite, got one that is too large") from None
        object.__setattr__(self, "index", int(self.index))
        object.__setattr__(self, "parameters", parameters)

    @property
    def vector(self) -> NDArray[np.float64]:
        """The parameters as a fresh float64 array `(P,)`."""
        return np.array(self.parameters, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Returns the task as plain JSON values; `from_dict` restores it exactly."""
        return {
            "family": self.family,
            "split": self.split,
            "index": self.index,
            "parameters": list(self.parameters),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Restores a task from `to_dict` (also after conversion to JSON and back).

        Raises:
            ValueError: a key is missing or unknown, or its value has the wrong type.
        """
        expected = {"family", "split", "index", "parameters"}
        if set(values) != expected:
            raise ValueError(f"a task's dict must have the keys {sorted(expected)}, got {sorted(values)}")
        return cls(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
