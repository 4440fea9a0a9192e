"""Shared code of the benchmarks of updates for matrix products by oneDNN."""

from __future__ import annotations

from collections.abc import Callable

from metarl_agents.common.matrix_products import products_by, reason_against_onednn

ONEDNN = "our update, matrix products by oneDNN"


def by_onednn(step: Callable[[], object]) -> Callable[[], object]:
    """Returns the step with matrix products by oneDNN, whether or not a run on this machine would use it."""

    def run() -> object:
        with products_by("onednn"):
            return step()

    return run


def say_what_onednn_is() -> None:
    """Prints whether runs on this machine use oneDNN by default."""
    reason = reason_against_onednn()
    print(f"\nruns here take {'oneDNN' if reason is None else f'the default products: {reason}'}")
