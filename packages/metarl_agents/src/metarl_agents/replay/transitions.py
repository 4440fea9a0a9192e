"""Batches of transitions, the data of every update rule."""

from typing import NamedTuple

from torch import Tensor


class Transitions(NamedTuple):
    """One batch as float32 tensors on one device: B transitions, or B of each of T tasks.

    Attributes:
        obs: observations (..., B, O).
        act: actions (..., B, A).
        reward: rewards (..., B) for the losses, unscaled.
        terminated: (..., B), 1 if the episode ended in a terminal state, 0 at time limits.
        obs_next: next observations (..., B, O).
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    terminated: Tensor
    obs_next: Tensor

    def flat(self) -> "Transitions":
        """The same transitions with tasks and batch merged into T*B rows."""
        return Transitions(*(column.flatten(0, 1) for column in self))
