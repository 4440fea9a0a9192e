"""Speed of TD3-context's update relative to simple code, and the share of updates in meta-training."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box
from interleave import Check, Rates, Variant, interleave, report
from onednn import ONEDNN, by_onednn, say_what_onednn_is
from straightforward_td3_context import StraightforwardTD3Context

from metarl_agents import train
from metarl_agents.algorithms.td3_context import ContextBatch, TD3Context, TD3ContextConfig
from metarl_agents.common.context import Context
from metarl_agents.common.threads import torch_threads
from metarl_agents.replay.transitions import Transitions
from metarl_agents.replay.windows import History

OBS, ACT, WINDOW, CONTEXT, HIDDEN, BATCH = 20, 6, 20, 15, 300, 256


def box(size: int) -> Box:
    """Returns a box of this size."""
    return Box(-1.0, 1.0, (size,), np.float32)


def batches(count: int) -> list[ContextBatch]:
    """Returns batches of full windows."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return [
        ContextBatch(
            Transitions(
                draw(BATCH, OBS),
                draw(BATCH, ACT).clamp(-1, 1),
                draw(BATCH),
                torch.zeros(BATCH),
                draw(BATCH, OBS),
            ),
            History(draw(WINDOW + 1, BATCH, ACT + 1 + OBS), None),
        )
        for _ in range(count)
    ]


def update() -> bool:
    """Times two gradient steps, one of which updates the actor; first compares the losses of twenty steps."""
    config = TD3ContextConfig(hidden=(HIDDEN, HIDDEN), history_length=WINDOW, context_size=CONTEXT)
    ours = TD3Context.from_config(
        config,
        Context(
            observation_space=box(OBS),
            action_space=box(ACT),
            task_space=box(1),
            num_tasks=1,
            seed=0,
            device=torch.device("cpu"),
        ),
    )
    theirs = StraightforwardTD3Context(ours)
    ours.generator.manual_seed(0)
    worst = 0.0
    data = batches(4)
    for number in range(20):
        a, b = ours.gradient_step(data[number % 4]), theirs.gradient_step(data[number % 4])
        for name in a:
            worst = max(worst, float(((a[name] - b[name]).abs() / b[name].abs().clamp(min=1.0)).detach()))
    print(f"\nlargest difference of a loss over 20 updates: {worst:.1e}")
    if worst > 1e-5:
        raise RuntimeError("the two updates differ")

    def twice(algorithm: TD3Context | StraightforwardTD3Context) -> None:
        algorithm.gradient_step(data[0])
        algorithm.gradient_step(data[1])

    rates = interleave(
        {
            "our update": Variant(lambda: twice(ours), 2),
            ONEDNN: Variant(by_onednn(lambda: twice(ours)), 2),
            "straightforward update": Variant(lambda: twice(theirs), 2),
        },
        rounds=9,
        seconds=1.5,
    )
    checks = [Check("ours / straightforward", rates.ratio("our update", "straightforward update"), 1.4)]
    figures = {"oneDNN / default": rates.ratio(ONEDNN, "our update")}
    say_what_onednn_is()
    return report("TD3-context update", "updates per second", rates, checks, figures)


def meta_training() -> bool:
    """Runs some iterations of the paper's preset and reports the share of time spent in updates."""
    shares, speeds = [], []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                "td3_context",
                "MetaHalfCheetah-Vel-v0",
                preset="paper",
                seed=seed,
                steps=50_000 + 5 * 200,
                out=Path(folder) / "run",
                progress=False,
            )
            lines = (result.run_dir / "timing.jsonl").read_text().splitlines()
            first, last = json.loads(lines[0]), json.loads(lines[-1])
        seconds = last["seconds"] - first["seconds"]
        shares.append((last["seconds_update"] - first["seconds_update"]) / seconds)
        speeds.append((len(lines) - 1) * 200 / seconds)
    rates = Rates({"meta-training": speeds})
    share = float(np.median(shares))
    checks = [Check("share of updates in the time after the first iteration", share, 0.9)]
    return report("TD3-context meta-training", "environment steps per second", rates, checks)


def main() -> int:
    """Runs all benchmarks; returns 1 if a required figure was not reached."""
    with torch_threads(1):
        reached = [update(), meta_training()]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
