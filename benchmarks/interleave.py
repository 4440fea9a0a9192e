"""Times several variants alternately in one process, so that disturbances affect all of them."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"


@dataclass(frozen=True)
class Variant:
    """Something to time: a call that does `units` of work, e.g. environment steps."""

    run: Callable[[], object]
    units: int


class Rates:
    """Units per second of every variant, one entry per round."""

    def __init__(self, rounds: Mapping[str, list[float]]) -> None:
        self.rounds = rounds

    def median(self, name: str) -> float:
        """Returns a variant's median rate."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, reference: str) -> float:
        """Returns the median over rounds of a variant's rate against the reference's in that round."""
        pairs = zip(self.rounds[name], self.rounds[reference], strict=True)
        return statistics.median(a / b for a, b in pairs)


def interleave(variants: Mapping[str, Variant], *, rounds: int = 7, seconds: float = 0.4) -> Rates:
    """Times variants in turn.

    Args:
        variants: name -> what to time.
        rounds: how often each has its turn; the first turn warms up and does not count.
        seconds: how long a turn takes, about.
    """
    calls = {}
    for name, variant in variants.items():
        variant.run()
        start = time.perf_counter()
        variant.run()
        calls[name] = max(1, round(seconds / (time.perf_counter() - start)))
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, variant in variants.items():
            gc.collect()
            start = time.perf_counter()
            for _ in range(calls[name]):
                variant.run()
            if turn:
                rates[name].append(calls[name] * variant.units / (time.perf_counter() - start))
    return Rates(rates)


@dataclass(frozen=True)
class Check:
    """A ratio that must be reached."""

    what: str
    value: float
    required: float

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value >= self.required


def report(
    title: str, unit: str, rates: Rates, checks: list[Check], figures: Mapping[str, float] | None = None
) -> bool:
    """Prints rates, checks and other measurements, and writes them to `results/benchmarks/`.

    Returns:
        Whether every check was reached.
    """
    print(f"\n{title} ({unit}, median of {len(next(iter(rates.rounds.values())))} interleaved rounds)")
    for name in rates.rounds:
        rate = rates.median(name)
        print(f"  {name:<58} {rate:>14,.0f}" if rate >= 100 else f"  {name:<58} {rate:>14.2f}")
    for name, value in (figures or {}).items():
        print(f"  {name:<58} {value:>14.2f}")
    for check in checks:
        verdict = "reached" if check.reached else "MISSED"
        print(f"  {check.what:<58} {check.value:>14.2f}  (required {check.required:g}: {verdict})")
    content: dict[str, Any] = {
        "title": title,
        "unit": unit,
        "medians": {name: float(f"{rates.median(name):.5g}") for name in rates.rounds},
        "figures": {name: round(value, 3) for name, value in (figures or {}).items()},
        "checks": [{"what": c.what, "value": round(c.value, 3), "required": c.required} for c in checks],
        "machine": {"platform": platform.platform(), "processor": processor()},
        "versions": {name: version(name) for name in ("gymnasium", "mujoco", "numpy", "tianshou", "torch")},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{title.lower().replace(' ', '_')}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    return all(check.reached for check in checks)


def processor() -> str:
    """Returns the model name of the processor, if the system provides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((ln.split(":", 1)[1].strip() for ln in lines if ln.startswith("model name")), "")
