"""Speed of collection relative to a minimal loop, and of PEARL's update relative to simple code."""

from __future__ import annotations

import sys

import numpy as np
import torch
from interleave import Check, Variant, interleave, report
from onednn import ONEDNN, by_onednn, say_what_onednn_is
from straightforward_pearl import StraightforwardPEARL

from metarl_agents.algorithms.pearl import PEARL, PEARLBatch
from metarl_agents.common.context import Context
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.replay.transitions import Transitions
from metarl_agents.run.assembly import assemble
from metarl_envs import MetaVectorEnv

FAMILY = "MetaHalfCheetah-Vel-v0"
NUM = 64


def collection() -> bool:
    """Times a meta-iteration's collection at N = 64, against a loop of nothing but policy and steps."""
    config = find_agent("pearl").config(
        FAMILY,
        "paper",
        {
            "num_simulations": NUM,
            "tasks_per_iteration": NUM,
            "prior_steps": 200,
            "extra_posterior_steps": 0,
        },
    )
    parts = assemble("pearl", FAMILY, config, seed=0, device=torch.device("cpu"), threads=1)
    horizon = parts.collector.horizon
    policy = parts.algorithm.policy
    policy.begin_rollouts(np.arange(NUM), "prior", parts.buffer)
    env = MetaVectorEnv(FAMILY, NUM, num_threads=1, autoreset_mode="SameStep")
    observations, _ = env.reset(seed=0)

    def through_tianshou() -> None:
        parts.collector.collect(n_step=NUM * horizon)

    def bare() -> None:
        nonlocal observations
        for _ in range(horizon):
            with torch.no_grad():
                actions = policy.act(torch.from_numpy(observations), None, deterministic=False)
            observations, *_ = env.step(actions.numpy())

    # A task drawn twice is visited twice, one visit after the other, so an iteration of 64 draws fills
    # the simulations unevenly. Drawing each of 64 tasks once compares like with like.
    parts.collector.generator = _EachOnce()  # type: ignore[assignment]
    steps = NUM * horizon
    rates = interleave(
        {"through the collector": Variant(through_tianshou, steps), "bare loop": Variant(bare, steps)},
        rounds=7,
        seconds=0.5,
    )
    checks = [Check("collector / bare loop, N=64", rates.ratio("through the collector", "bare loop"), 0.5)]
    return report("Collection with a PEARL policy", "environment steps per second", rates, checks)


class _EachOnce:
    """Replaces a generator so that every task is drawn once."""

    def integers(self, low: int, high: int, size: int) -> np.ndarray:  # type: ignore[type-arg]
        """Returns the first `size` numbers."""
        return np.arange(low, min(high, low + size))


def update(preset: str) -> bool:
    """Times one gradient step."""
    config = find_agent("pearl").config(FAMILY, preset)
    env = MetaVectorEnv(FAMILY, 1)
    algorithm = PEARL.from_config(
        config,
        Context.of(env, seed=0, device=torch.device("cpu")),
    )
    straightforward = StraightforwardPEARL(algorithm)
    generator = torch.Generator().manual_seed(0)
    tasks, size, context = config.meta_batch, config.batch_size, config.context_batch

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    transitions = Transitions(
        draw(tasks, size, 17),
        draw(tasks, size, 6).clamp(-1, 1),
        draw(tasks, size),
        torch.zeros(tasks, size),
        draw(tasks, size, 17),
    )
    batch = PEARLBatch(draw(tasks, context, 24), transitions)
    algorithm.generator.manual_seed(0)
    algorithm.policy.generator.manual_seed(0)
    ours, theirs = algorithm.gradient_step(batch), straightforward.gradient_step(batch)
    for name in ("critic_loss", "kl"):
        if not torch.allclose(ours[name], theirs[name], rtol=1e-4):
            raise RuntimeError(f"the two updates differ in {name}: {ours[name]} and {theirs[name]}")
    rates = interleave(
        {
            "our update": Variant(lambda: algorithm.gradient_step(batch), 1),
            ONEDNN: Variant(by_onednn(lambda: algorithm.gradient_step(batch)), 1),
            "straightforward update": Variant(lambda: straightforward.gradient_step(batch), 1),
        },
        seconds=1.0,
    )
    checks = [Check("ours / straightforward", rates.ratio("our update", "straightforward update"), 0.95)]
    figures = {"oneDNN / default": rates.ratio(ONEDNN, "our update")}
    say_what_onednn_is()
    return report(f"PEARL update {preset}", "updates per second", rates, checks, figures)


def main() -> int:
    """Runs all benchmarks; returns 1 if a required figure was not reached."""
    with torch_threads(1):
        reached = [collection(), update("paper"), update("fast")]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
