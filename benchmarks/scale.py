"""Seconds of a paper-size ProMP iteration in one process and with actors, and a model for more machines.

Needs the extra `metarl-agents[ray]`. Half-cheetahs, 40 tasks, 20 rollouts of 200 steps, two batches. The
model is a calculation, not a measurement: docs/scaling.md says what goes into it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from math import ceil
from typing import Any

import ray
import torch
from interleave import Variant, interleave, report

from metarl_agents.actors.ray_pool import RayPool
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import Assembly, assemble
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm

AGENT, ENV = "promp", "MetaHalfCheetah-Dir-v0"
ACTORS, NODES = (1, 2), (2, 4, 8, 16, 32, 40, 64)
#: Assumed of the network between machines: seconds of a call there and back, and bytes per second.
LATENCY, BANDWIDTH = 1e-3, 1.25e9


class TimedPool(RayPool):
    """A pool that records how long the process of the run waits for its actors, and how often."""

    waited = 0.0
    calls = 0

    def each(self, *arguments: Any, **options: Any) -> list[Any]:
        """See `Pool.each`."""
        start = time.perf_counter()
        try:
            return super().each(*arguments, **options)
        finally:
            self.waited += time.perf_counter() - start
            self.calls += 1


def parts_of(pool: RayPool | None) -> Assembly:
    """Returns the parts of a run of the paper's size."""
    config = find_agent(AGENT).config(ENV, "paper")
    return assemble(AGENT, ENV, config, seed=0, device=torch.device("cpu"), threads=1, pool=pool)


def iteration(parts: Assembly) -> Callable[[], None]:
    """Returns a function that collects and updates once."""

    def run() -> None:
        parts.collector.collect(n_step=1)
        for _ in parts.algorithm.outer_steps():
            pass

    return run


def name(actors: int) -> str:
    """Returns what a variant is called."""
    return "one process" if not actors else f"{actors} actor{'s' * (actors > 1)}"


def main() -> int:
    """Measures and calculates."""
    ray.init(num_cpus=sum(ACTORS), include_dashboard=False, log_to_driver=False)
    pools = {count: TimedPool(count) for count in ACTORS}
    parts = {0: parts_of(None)} | {count: parts_of(pool) for count, pool in pools.items()}
    with torch_threads(1):
        variants = {name(count): Variant(iteration(part), 1) for count, part in parts.items()}
        rates = interleave(variants, rounds=3, seconds=0.0)
        pool, run = pools[2], iteration(parts[2])
        sent, received, waited, calls = pool.bytes_sent, pool.bytes_received, pool.waited, pool.calls
        start = time.perf_counter()
        run()
        serial = time.perf_counter() - start - (pool.waited - waited)
    sent, received, calls = pool.bytes_sent - sent, pool.bytes_received - received, pool.calls - calls
    algorithm = parts[0].algorithm
    assert isinstance(algorithm, MetaOnPolicyAlgorithm)
    config = parts[0].config
    pieces = len(algorithm.divide(config, parts[0].collector.trials.horizon))
    seconds = {count: 1.0 / rates.median(name(count)) for count in parts}
    work = seconds[0] - serial

    def model(nodes: int) -> float:
        """Returns the seconds of an iteration on so many machines with one actor each."""
        traffic = (sent / 2 * nodes + received) / BANDWIDTH
        return serial + work * ceil(pieces / nodes) / pieces + calls * LATENCY + traffic

    figures = {f"seconds of an iteration, {name(count)}": value for count, value in seconds.items()}
    figures |= {
        "share that does not parallelise": serial / seconds[0],
        "calls of an actor in an iteration": calls,
        "MB sent to each actor in an iteration": sent / 2e6,
        "MB received from all actors in an iteration": received / 1e6,
        "pieces": pieces,
    }
    figures |= {f"speed-up by the model, {nodes} nodes": seconds[0] / model(nodes) for nodes in NODES}
    for count, pool in pools.items():
        parts[count].env.close()
        pool.close()
    ray.shutdown()
    return 0 if report("One run over several processes", "iterations per second", rates, [], figures) else 1


if __name__ == "__main__":
    sys.exit(main())
