"""Trials whose tasks are divided among processes; each simulates, adapts to and differentiates its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from metarl_agents.common.matrix_products import products_by
from metarl_agents.common.pool import Pool, as_arrays, as_tensors
from metarl_agents.trials.collector import Batch, Trials


class Workers(Protocol):
    """Where the tasks of an iteration are learned from, if not in this process."""

    def on_pieces(self, work: str, arguments: Sequence[Any], keep: bool) -> list[Any]:
        """See `MetaOnPolicyAlgorithm.on_pieces`."""


class TrialWorker:
    """What a process does with its tasks.

    Args:
        algorithm: a copy of the algorithm.
        trials: runs the trials of its tasks.
        products: what computes matrix products in updates; see `matrix_products`.
    """

    def __init__(self, algorithm: Any, trials: Trials, products: str) -> None:
        self.algorithm = algorithm
        self.trials = trials
        self.products = products

    def load(self, state: dict[str, Any]) -> None:
        """Takes over weights."""
        self.algorithm.load_network_state(as_tensors(state))

    def run(self, tasks: Sequence[Any], seed: int) -> list[Batch]:
        """See `RunsTrials.run`."""
        return self.trials.run(tasks, seed)

    def on_pieces(self, work: str, *arguments: Any) -> list[Any]:
        """See `MetaOnPolicyAlgorithm.on_pieces`."""
        with products_by(self.products):
            result: list[Any] = as_arrays(self.algorithm.on_pieces(work, *as_tensors(arguments)))
        return result


class DistributedTrials:
    """Divides the trials of an iteration among processes, and the work on pieces of their tasks.

    Args:
        algorithm: the algorithm that learns.
        pool: the processes.
        shares: places of the tasks of each process.
    """

    def __init__(self, algorithm: Any, pool: Pool, shares: Sequence[range]) -> None:
        self.algorithm = algorithm
        self.pool = pool
        self.shares = shares

    def run(self, tasks: Sequence[Any], seed: int) -> list[Batch]:
        """See `RunsTrials.run`."""
        self.pool.begin()
        self.pool.load(self.algorithm.network_state())
        calls = {
            number: ([tasks[place] for place in share], seed) for number, share in enumerate(self.shares)
        }
        found = self.pool.each("run", calls, keep=True)
        return [Batch(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)]

    def on_pieces(self, work: str, arguments: Sequence[Any], keep: bool) -> list[Any]:
        """See `MetaOnPolicyAlgorithm.on_pieces`."""
        self.pool.load(self.algorithm.network_state())
        call = (work, *as_arrays(tuple(arguments)))
        found = self.pool.each("on_pieces", dict.fromkeys(range(self.pool.count), call), keep=keep)
        result: list[Any] = as_tensors([piece for pieces in found for piece in pieces])
        return result
