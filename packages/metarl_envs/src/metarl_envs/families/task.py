"""A task, one member of a family."""

from __future__ import annotations

from collections.abc import Mapping
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
        parameters: the family's task parameters, in the order of `Family.parameter_names`.
    """

    family: str
    split: str
    index: int
    parameters: tuple[float, ...]

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
        index, parameters = values["index"], values["parameters"]
        if isinstance(index, bool) or not isinstance(index, int):
            raise ValueError(f"a task's index must be an integer, got {index!r}")
        if not isinstance(parameters, list | tuple) or not all(
            isinstance(x, int | float) and not isinstance(x, bool) for x in parameters
        ):
            raise ValueError(f"a task's parameters must be a list of numbers, got {parameters!r}")
        family, split = values["family"], values["split"]
        if not isinstance(family, str) or not isinstance(split, str):
            raise ValueError(f"a task's family and split must be strings, got {family!r}, {split!r}")
        return cls(family, split, index, tuple(float(x) for x in parameters))
