"""Speed of collection with per-task weights relative to raw steps; times within a ProMP and MAML iteration.

Sizes are those of the papers: half-cheetahs, 40 tasks, 20 rollouts of 200 steps, two batches.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from environments import THREADS, raw
from interleave import Check, Variant, interleave, report
from straightforward_meta_gradient import maml_update, promp_update
from torch import Tensor

from metarl_agents.algorithms.maml import MAML
from metarl_agents.algorithms.promp import ProMP
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import Assembly, assemble
from metarl_agents.trials.episodes import Episodes, collect_episodes
from metarl_agents.trials.trust_region import flat

ENV, TASKS, ROLLOUTS = "MetaHalfCheetah-Dir-v0", 40, 20
STRAIGHTFORWARD = {"promp": promp_update, "maml": maml_update}


def parts_of(agent: str) -> Assembly:
    """Returns the parts of a run of the paper's size."""
    config = find_agent(agent).config(ENV, "paper")
    return assemble(agent, ENV, config, seed=0, device=torch.device("cpu"), threads=THREADS)


def batch_of(parts: Assembly) -> Callable[[], Episodes]:
    """Returns a function that collects 20 episodes of each of 40 tasks with their policies."""
    trials, policy = parts.collector.trials, parts.algorithm.policy
    tasks = [parts.collector.tasks[number % 2] for number in range(TASKS)]

    def act(observations: Any) -> Any:
        return policy.act_on_arrays(observations, deterministic=False)

    return lambda: collect_episodes(parts.env, tasks, ROLLOUTS, trials.horizon, act, policy.observe_arrays)


def collection() -> bool:
    """Times a batch of episodes with forty adapted policies, and the same number of raw steps."""
    parts = parts_of("promp")
    policy, horizon = parts.algorithm.policy, parts.collector.trials.horizon
    batch, simulations = batch_of(parts), TASKS * ROLLOUTS
    policy.begin_trials(TASKS, ROLLOUTS)
    policy.take(batch())
    policy.adapt()
    bare = raw(ENV, simulations, horizon)

    def as_many() -> None:
        for _ in range(simulations * horizon // bare.units):
            bare.run()

    ours, theirs = "collection, 40 policies x 20 rollouts", "raw mujoco.batch N=800"
    units = simulations * horizon
    rates = interleave({ours: Variant(batch, units), theirs: Variant(as_many, units)}, rounds=5, seconds=1.0)
    parts.env.close()
    checks = [Check("collection / raw mujoco.batch", rates.ratio(ours, theirs), 0.7)]
    return report("Collection with per-task weights", "environment steps per second", rates, checks)


def iteration(agent: str) -> bool:
    """Times the parts of an iteration, and the outer update relative to a simple implementation."""
    parts = parts_of(agent)
    algorithm: ProMP | MAML = parts.algorithm
    policy, batch = algorithm.policy, batch_of(parts)
    policy.begin_trials(TASKS, ROLLOUTS)
    times = [time.perf_counter()]
    for number in range(2):
        if number:
            policy.adapt()
            times.append(time.perf_counter())
        episodes = batch()
        times.append(time.perf_counter())
        policy.take(episodes)
        times.append(time.perf_counter())
    spent = [after - before for before, after in pairwise(times)]
    simulation = spent[0] + spent[3]
    weights = copy.deepcopy(algorithm.network_state())
    generator_state = algorithm.generator.get_state()
    theirs = STRAIGHTFORWARD[agent](algorithm)

    def ours() -> Tensor:
        algorithm.load_network_state(weights)
        algorithm.generator.set_state(generator_state)
        for optimiser in algorithm.optimisers():
            optimiser._optim.state.clear()
        for _ in algorithm.outer_steps():
            pass
        return flat([p.detach() for p in policy.model.parameters()])

    a, b = ours(), theirs()
    start = flat([weights[f"policy.model.{name}"] for name, _ in policy.model.named_parameters()])
    # Adam's first steps go by the sign of tiny gradients, and conjugate gradient enlarges rounding.
    worst = float((a - b).norm() / (a - start).norm())
    print(f"\n{agent}: difference of the two updates relative to their length: {worst:.1e}")
    if worst > 0.05:
        raise RuntimeError("the two updates differ")
    names = ("our update", "straightforward update")
    rates = interleave({names[0]: Variant(ours, 1), names[1]: Variant(theirs, 1)}, rounds=5, seconds=0.5)
    parts.env.close()
    figures = {
        "seconds of simulation and acting": simulation,
        "seconds of advantages and inner step": sum(spent) - simulation,
        "seconds of our outer update": 1.0 / rates.median(names[0]),
        "seconds of a straightforward outer update": 1.0 / rates.median(names[1]),
    }
    figures["seconds of an iteration"] = sum(spent) + 1.0 / rates.median(names[0])
    checks = [Check("ours / straightforward", rates.ratio(*names), 1.0)]
    return report(f"{agent} outer update", "updates per second", rates, checks, figures)


def main() -> int:
    """Runs all benchmarks; returns 1 if a required figure was not reached."""
    # One thread for PyTorch, as in a run; simulations have all cores, here and in the raw reference.
    with torch_threads(1):
        reached = [collection(), *(iteration(agent) for agent in STRAIGHTFORWARD)]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
