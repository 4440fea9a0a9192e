"""Speed of a warm-up of multi-task SLBO at paper size, relative to simple code, and where its time goes."""

from __future__ import annotations

import copy
import dataclasses
import sys

import torch
from interleave import Check, Variant, interleave, report
from straightforward_slbo import StraightforwardSLBO

from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.slbo.policy_step import policy_step
from metarl_agents.slbo.rollouts import run
from metarl_agents.slbo.training import Settings, VirtualTraining

FAMILY = "MetaHalfCheetah-VelShort-v0"
#: A tenth of an inner iteration, the share that a turn of the benchmark repeats.
TENTH = 10
TASKS, INNER_ITERATIONS = 2, 40
COMPARED = ("model_error", "virtual_return", "policy_kl", "action_std")


class Prepared:
    """A run of the preset `paper` that has the data of two tasks, and simple code with the same weights."""

    def __init__(self) -> None:
        config = find_agent("slbo").config(FAMILY, "paper", {"entropy": "gaussian"})
        parts = assemble("slbo", FAMILY, config, seed=0, device=torch.device("cpu"), threads=1)
        algorithm, schedule = parts.algorithm, parts.collector.schedule
        for _ in range(TASKS):
            # As if the warm-up were complete; its policy does not matter here.
            schedule.inner_done, schedule.last_returns = config.inner_iterations, [0.0]
            parts.collector.collect(n_step=1)
        settings = Settings.of(config)
        self.settings = dataclasses.replace(
            settings, model_steps=settings.model_steps // TENTH, policy_steps=settings.policy_steps // TENTH
        )
        rate, dynamics = config.learning_rate, algorithm.policy.dynamics
        self.policy, self.simulations = algorithm.policy.actor, algorithm.simulations
        self.training = VirtualTraining(
            self.settings,
            dynamics,
            algorithm.value,
            algorithm.store,
            model_adam=torch.optim.Adam([*dynamics.weights, *dynamics.biases], rate, fused=True),
            value_adam=torch.optim.Adam([algorithm.value.flat], rate, fused=True),
            generator=torch.Generator().manual_seed(1),
            noise=torch.Generator().manual_seed(2),
        )
        self.simple = StraightforwardSLBO(self.training, self.policy, self.simulations, self.settings, rate)
        # Each has its own numbers, the same ones.
        self.simple.generator = torch.Generator().manual_seed(1)
        self.simple.noise = torch.Generator().manual_seed(2)

    def compare(self) -> float:
        """Returns the largest relative difference of what a tenth of an inner iteration reports."""
        self.simulations.seed = 3
        found = self.training.inner_iteration(self.policy, self.simulations)
        self.simulations.seed = 3
        other = self.simple.inner_iteration()
        return max(abs(float(found[n]) - other[n]) / max(1e-2, abs(other[n])) for n in COMPARED)


def main() -> bool:
    """Compares results, then times a tenth of an inner iteration and its parts."""
    prepared = Prepared()
    difference = prepared.compare()
    print(f"largest relative difference of what is reported: {difference:.1e}")
    if difference > 1e-2:
        raise RuntimeError("the two warm-ups differ")
    ours, simple, policy = prepared.training, prepared.simple, prepared.policy
    simulations, settings = prepared.simulations, prepared.settings
    constants = ours.dynamics.constants()
    simulations.refresh()
    rollouts = run(simulations, policy, constants.mean, constants.scale, ours.noise)
    advantages, targets = simple.advantages(rollouts)
    inputs = simple.normalised(rollouts.obs).flatten(0, 1)

    def step(curvature_every: int) -> object:
        return policy_step(
            copy.deepcopy(policy),
            inputs,
            rollouts.act.flatten(0, 1),
            advantages.flatten(),
            entropy_cost=settings.entropy_cost,
            limited_entropy=False,
            curvature_every=curvature_every,
        )

    def values() -> object:
        return ours.value.fit(
            ours.value_adam,
            inputs,
            targets.flatten(),
            epochs=settings.value_epochs,
            batch_size=settings.value_batch,
            generator=ours.generator,
        )

    model_steps = settings.model_steps
    rates = interleave(
        {
            "warm-ups, a tenth of an inner iteration": Variant(
                lambda: ours.inner_iteration(policy, simulations), 1
            ),
            "warm-ups, straightforward": Variant(simple.inner_iteration, 1),
            "model steps": Variant(lambda: ours._fit_dynamics(constants), model_steps),
            "model steps, straightforward": Variant(simple.fit_model, model_steps),
            "rollouts": Variant(
                lambda: run(simulations, policy, constants.mean, constants.scale, ours.noise), 1
            ),
            "rollouts, straightforward": Variant(simple.rollouts, 1),
            "policy steps": Variant(lambda: step(1), 1),
            "policy steps, curvature of every 4th step": Variant(lambda: step(4), 1),
            "policy steps, straightforward": Variant(lambda: simple.policy_step(rollouts, advantages), 1),
            "fits of the values": Variant(values, 1),
            "fits of the values, straightforward": Variant(lambda: simple.fit_values(rollouts, targets), 1),
        },
        rounds=5,
        seconds=0.8,
    )
    whole = "warm-ups, a tenth of an inner iteration"
    checks = [Check("ours / straightforward", rates.ratio(whole, "warm-ups, straightforward"), 2.0)]
    figures = {
        f"ours / straightforward, {name}": rates.ratio(name, f"{name}, straightforward")
        for name in ("model steps", "rollouts", "policy steps", "fits of the values")
    }
    inner = 1 / INNER_ITERATIONS
    paper = Settings.of(find_agent("slbo").config(FAMILY, "paper", {}))
    seconds = {
        "warm-up": TENTH / rates.median(whole),
        "warm-up, straightforward": TENTH / rates.median("warm-ups, straightforward"),
        "of it model": paper.model_steps / rates.median("model steps"),
        "of it rollouts": paper.policy_steps / rates.median("rollouts"),
        "of it policy steps": paper.policy_steps / rates.median("policy steps"),
        "of it values": paper.policy_steps / rates.median("fits of the values"),
    }
    figures |= {f"seconds, {name}": value / inner for name, value in seconds.items()}
    return report("SLBO warm-up", "per second", rates, checks, figures)


if __name__ == "__main__":
    with torch_threads(1):
        sys.exit(not main())
