"""What an algorithm needs of the processes that share its iterations, and how data travel to them.

A call of a process depends only on its arguments and on the earlier calls of the same iteration that were
marked as kept. A process that is lost can therefore be replaced, and its calls repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Pool(Protocol):
    """Several processes, each with a copy of the algorithm and with some simulations."""

    #: Number of processes.
    count: int

    def begin(self) -> None:
        """An iteration begins: earlier calls will not be repeated."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Sends weights to all processes, unless they already have the same."""

    def each(self, method: str, calls: Mapping[int, Sequence[Any]], *, keep: bool = False) -> list[Any]:
        """Calls a method of the workers in some processes; returns the results in the order of `calls`.

        Args:
            method: name of the method.
            calls: arguments by number of the process.
            keep: whether later calls of the iteration depend on this one.
        """


class Weights:
    """The weights that were sent last."""

    def __init__(self) -> None:
        self.sent: dict[str, Tensor] = {}

    def changed(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the weights differ from those sent last; then these are remembered as sent."""
        if self.sent and all(torch.equal(value, self.sent[name]) for name, value in state.items()):
            return False
        self.sent = {name: value.detach().clone() for name, value in state.items()}
        return True


def as_arrays(value: Any) -> Any:
    """Replaces the tensors in nested lists, tuples and dicts by arrays."""
    return _converted(value, Tensor, lambda tensor: tensor.detach().cpu().numpy())


def as_tensors(value: Any) -> Any:
    """Replaces the arrays in nested lists, tuples and dicts by tensors, which are copies."""
    return _converted(value, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _converted(value: Any, kind: type, convert: Any) -> Any:
    if isinstance(value, kind):
        return convert(value)
    if type(value) in (list, tuple):
        return type(value)(_converted(entry, kind, convert) for entry in value)
    if type(value) is dict:
        return {key: _converted(entry, kind, convert) for key, entry in value.items()}
    return value


def size_in_bytes(value: Any) -> int:
    """Bytes of the arrays in nested lists, tuples and dicts."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(size_in_bytes(entry) for entry in value.values())
    return sum(map(size_in_bytes, value)) if isinstance(value, list | tuple) else 0
