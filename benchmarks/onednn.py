"""What the benchmarks of updates share about matrix products by oneDNN."""

from __future__ import annotations

from collections.abc import Callable

from metarl_agents.common.matrix_products import products_by, reason_against_onednn

ONEDNN = "our update, matrix products by oneDNN"


def by_onednn(step: Callable[[], object]) -> Callable[[], object]:
    """Returns the step with its matrix products by oneDNN, whether or not a run here would take it."""

    def run() -> object:
        with products_by("onednn"):
            return step()

    return run


def say_what_onednn_is() -> None:
    """Prints whether runs here take oneDNN's products by themselves."""
    reason = reason_against_onednn()
    print(f"\nruns here take {'oneDNN' if reason is None else f'the default products: {reason}'}")
