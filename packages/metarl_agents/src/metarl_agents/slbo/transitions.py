"""All real steps so far, in the order of their episodes: the data that dynamics are learned from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Columns of the store, in the order of `append`.
COLUMNS = ("obs", "act", "next_obs", "ended")


class Sequences(NamedTuple):
    """B sequences of S consecutive rows, time first.

    Attributes:
        obs: observations (S, B, O).
        act: actions (S, B, A) as they were drawn.
        next_obs: observations after the steps (S, B, O).
        ended: (S, B) bool, whether the next row of the data does not continue this one.
    """

    obs: Tensor
    act: Tensor
    next_obs: Tensor
    ended: Tensor


class TransitionStore:
    """A ring of transitions; whole episodes are appended one after the other.

    Args:
        capacity: most transitions; older ones are overwritten.
        observations: size O of an observation.
        actions: size A of an action.
        device: device on which sequences are returned.
    """

    def __init__(self, capacity: int, observations: int, actions: int, device: torch.device) -> None:
        self.capacity = capacity
        self.obs = torch.zeros(capacity, observations, device=device)
        self.act = torch.zeros(capacity, actions, device=device)
        self.next_obs = torch.zeros(capacity, observations, device=device)
        self.ended = torch.zeros(capacity, dtype=torch.bool, device=device)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def append(self, obs_BO: Tensor, act_BA: Tensor, next_obs_BO: Tensor, ended_B: Tensor) -> None:
        """Adds transitions in their order.

        Raises:
            ValueError: for more transitions than the ring can store.
        """
        count = len(obs_BO)
        if count > self.capacity:
            raise ValueError(f"{count} transitions do not fit into a ring of {self.capacity}")
        rows = (torch.arange(count, device=self.obs.device) + self.added) % self.capacity
        for name, values in zip(COLUMNS, (obs_BO, act_BA, next_obs_BO, ended_B), strict=True):
            column = getattr(self, name)
            column[rows] = values.to(column)
        self.added += count

    def draw(self, batch: int, length: int, generator: torch.Generator) -> Sequences:
        """Sequences that begin anywhere, drawn uniformly with replacement.

        A sequence may go on in another episode; `ended` says where. The newest row has no successor, so it
        counts as an end.

        Args:
            batch: number B of sequences.
            length: number S of rows.
            generator: source of the choice.
        """
        count = len(self)
        device = self.obs.device
        first_B = torch.randint(count, (batch,), generator=generator, device=device)
        rows_SB = (first_B + torch.arange(length, device=device)[:, None]) % count
        newest = (self.added - 1) % self.capacity
        return Sequences(
            self.obs[rows_SB],
            self.act[rows_SB],
            self.next_obs[rows_SB],
            self.ended[rows_SB] | (rows_SB == newest),
        )

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The stored rows, and how many were added in all."""
        count = len(self)
        columns = {name: getattr(self, name)[:count].cpu().numpy() for name in COLUMNS}
        return columns | {"added": np.array([self.added])}

    def generator_state(self) -> dict[str, Any]:
        """Nothing: those who draw bring their generator."""
        return {}

    def load_generator_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def copy(self) -> TransitionStore:
        """A store with the same transitions."""
        made = TransitionStore(self.capacity, self.obs.shape[1], self.act.shape[1], self.obs.device)
        made.added = self.added
        for name in COLUMNS:
            getattr(made, name)[: len(self)] = getattr(self, name)[: len(self)]
        return made

    def load_state_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restores what `state_arrays` returned."""
        self.added = int(arrays["added"].item())
        for name in COLUMNS:
            getattr(self, name)[: len(self)] = torch.from_numpy(arrays[name].copy()).to(self.obs.device)
