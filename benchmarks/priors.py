"""Speed of the multi-task agents' updates relative to simple code, at the sizes of the paper."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from interleave import Check, Variant, interleave, report
from onednn import ONEDNN, by_onednn, say_what_onednn_is
from straightforward_priors import StraightforwardMultiTask
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from metarl_agents.common.config import RunConfig
from metarl_agents.common.context import Context
from metarl_agents.common.matrix_products import reason_against_onednn
from metarl_agents.common.threads import torch_threads
from metarl_agents.priors.algorithm import ChunkBatch, MultiTaskAlgorithm
from metarl_agents.registry import find_agent

OBS, ACT, TASKS = 50, 8, 100
AGENTS = ("svg0", "distral", "mpo", "mpo_distral", "iwpl")
#: Agent -> required ratios of updates per second to the simple code, with the default products and by oneDNN.
REQUIRED = {"distral": (1.3, 2.0), "mpo": (1.3, 2.0), "iwpl": (2.0, 3.5)}
#: Bound of the memory of an update of IWPL, in GiB.
MEMORY = 1.0


def box(size: int) -> Box:
    """Returns a box of this size."""
    return Box(-1.0, 1.0, (size,), np.float32)


def build(agent: str, **changes: Any) -> MultiTaskAlgorithm:
    """Returns an agent with the paper's sizes."""
    entry = find_agent(agent)
    values = entry.preset_tables()["paper"]["default"] | changes
    config: RunConfig = entry.load().config_class().replace(values)
    context = Context(
        observation_space=box(OBS),
        action_space=box(ACT),
        task_space=box(1),
        num_tasks=TASKS,
        seed=0,
        device=torch.device("cpu"),
    )
    return entry.load().from_config(config, context)


def batch(algorithm: MultiTaskAlgorithm, seed: int) -> ChunkBatch:
    """Returns full chunks."""
    generator = torch.Generator().manual_seed(seed)
    chunks, steps = algorithm.config.batch_size, algorithm.config.chunk_length

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tasks = torch.randint(TASKS, (chunks,), generator=generator).numpy()
    return ChunkBatch(
        draw(chunks, steps + 1, OBS),
        draw(chunks, steps, ACT),
        draw(chunks, steps),
        torch.ones(chunks, steps),
        draw(chunks, steps) - ACT,
        torch.ones(chunks, steps, dtype=torch.bool),
        algorithm.policy.tasks(tasks),
    )


def largest_difference(agent: str) -> float:
    """Returns the largest relative difference of a loss over five updates, with fewer chunks.

    Raises:
        RuntimeError: when it is not rounding.
    """
    ours = build(agent, batch_size=64, target_period=2)
    theirs = StraightforwardMultiTask(ours)
    ours.generator.manual_seed(0)
    worst = 0.0
    for number in range(5):
        data = batch(ours, number)
        a, b = ours.gradient_step(data), theirs.gradient_step(data)
        for name, value in b.items():
            worst = max(worst, float((a[name].detach() - value).abs() / value.abs().clamp(min=1.0)))
    if worst > 1e-5:
        raise RuntimeError(f"the updates of {agent} differ by {worst:.1e}")
    return worst


def product_rate() -> float:
    """Returns the rate of a product of the critic's largest layer in GFLOP/s: the best of many."""
    inputs, weights = torch.randn(640, 400), torch.randn(300, 400)
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        F.linear(inputs, weights)
        best = min(best, time.perf_counter() - start)
    return 2 * 640 * 400 * 300 / best / 1e9


def update(agent: str) -> bool:
    """Times one update of an agent, by both libraries for matrix products, and of the simple code."""
    print(f"\n{agent}: largest difference of a loss over 5 updates: {largest_difference(agent):.1e}")
    ours = build(agent)
    theirs = StraightforwardMultiTask(ours)
    data = batch(ours, 0)
    with FlopCounterMode(display=False) as counter:
        ours.gradient_step(data)
    work = counter.get_total_flops() / 1e9
    simple = "straightforward update"
    rates = interleave(
        {
            "our update": Variant(lambda: ours.gradient_step(data), 1),
            ONEDNN: Variant(by_onednn(lambda: ours.gradient_step(data)), 1),
            simple: Variant(lambda: theirs.gradient_step(data), 1),
        },
        rounds=5,
        seconds=1.0,
    )
    peak = product_rate()
    figures: Mapping[str, float] = {
        "matrix products of an update, GFLOP": work,
        "a matrix product alone, GFLOP/s": peak,
        "share of that rate in our update": work * rates.median("our update") / peak,
        "oneDNN / default": rates.ratio(ONEDNN, "our update"),
    }
    checks = []
    if agent in REQUIRED:
        default, onednn = REQUIRED[agent]
        checks.append(Check("ours / straightforward", rates.ratio("our update", simple), default))
        if reason_against_onednn() is None:
            checks.append(Check("ours by oneDNN / straightforward", rates.ratio(ONEDNN, simple), onednn))
    return report(f"{agent.upper()} update", "updates per second", rates, checks, figures)


def resident(key: str) -> float:
    """Returns an entry of this process's memory, "VmRSS" (now) or "VmHWM" (the most so far), in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**20


def memory_of_an_update(queue: Any) -> None:
    """Puts the memory that two updates of IWPL take into a queue, in GiB; for a process of its own."""
    with torch_threads(1):
        ours = build("iwpl")
        data = batch(ours, 0)
        before = resident("VmRSS")
        for _ in range(2):
            ours.gradient_step(data)
        queue.put(resident("VmHWM") - before)


def memory() -> bool:
    """Measures the peak memory of an update of IWPL with 64 samples; on Linux only."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=memory_of_an_update, args=(queue,))
    process.start()
    used = queue.get()
    process.join()
    verdict = "reached" if used < MEMORY else "MISSED"
    print(f"\nmemory of an update of iwpl: {used:.2f} GiB (required below {MEMORY:g}: {verdict})")
    return bool(used < MEMORY)


def main() -> int:
    """Runs all benchmarks; returns 1 if a required figure was not reached."""
    with torch_threads(1):
        reached = [update(agent) for agent in sys.argv[1:] or AGENTS]
    reached.append(memory())
    say_what_onednn_is()
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
