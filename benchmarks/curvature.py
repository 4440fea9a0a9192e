"""How many steps are needed to estimate the curvature of a trust-region step.

    python curvature.py AGENT ID PRESET

Overrides of the form key=value may follow.

Compares the direction computed from a fraction of each task's steps with the one from all steps: the cosine
of the two, and the fraction of the surrogate's predicted gain within the trust region, g.d / sqrt(d.Hd) with
gradient g and curvature H of all steps. Means over three draws, at the first iteration and after ten.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from metarl_agents.algorithms.maml import MetaObjective
from metarl_agents.common.config import parse_overrides
from metarl_agents.common.seeding import torch_stream
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.trials.trust_region import (
    Product,
    TrustRegion,
    TrustRegionConfig,
    conjugate_gradient,
    curvature_product,
)

FRACTIONS = (0.1, 0.25, 0.5)
DRAWS, ITERATIONS = 3, 10


class Direction:
    """The direction from all steps, and comparisons of others with it."""

    def __init__(self, objective: MetaObjective) -> None:
        self.objective = objective
        self.region = TrustRegion()
        self.parameters = list(objective.policy.model.parameters())
        _, self.slope = objective.gradient(self.parameters)
        self.curvature = self.product(objective)
        self.best = self.solve(self.curvature)

    def product(self, objective: MetaObjective) -> Product:
        """Returns products with the curvature of an objective."""
        return curvature_product(objective.divergence, self.parameters, self.region.damping)

    def solve(self, product: Product) -> Tensor:
        """Returns the direction for a curvature."""
        return conjugate_gradient(product, self.slope, self.region.iterations)

    def gain(self, step: Tensor) -> Tensor:
        """Returns the gain within the region that a direction promises, up to a factor."""
        return (self.slope @ step) / (step @ self.curvature(step)).sqrt()

    def quality(self, fraction: float, generator: torch.Generator) -> tuple[float, float]:
        """Returns cosine and share of the gain of a direction from part of the steps."""
        ours = self.solve(self.product(self.objective.curvature_sample(fraction, generator)))
        cosine = torch.cosine_similarity(self.best, ours, 0)
        return float(cosine), float(self.gain(ours) / self.gain(self.best))


def main(agent: str, env_id: str, preset: str, *overrides: str) -> None:
    """Prints a table."""
    config = find_agent(agent).config(env_id, preset, parse_overrides(overrides))
    assert isinstance(config, TrustRegionConfig)
    parts = assemble(agent, env_id, config, seed=100, device=torch.device("cpu"), threads=1)
    generator = torch_stream(0, "curvature")
    print(f"{agent} on {env_id}, preset {preset}: cosine and share of the gain")
    for iteration in range(ITERATIONS + 1):
        parts.collector.collect(n_step=1)
        if iteration in (0, ITERATIONS):
            *inner, outer = parts.algorithm.policy.samples
            direction = Direction(
                MetaObjective(parts.algorithm.policy, inner, outer, second_order=bool(inner))
            )
            for fraction in FRACTIONS:
                draws = torch.tensor([direction.quality(fraction, generator) for _ in range(DRAWS)])
                cosine, gain = draws.mean(0).tolist()
                row = f"  iteration {iteration:2d}, {fraction:4.0%} of the steps: {cosine:.3f} {gain:.3f}"
                print(row, flush=True)
        for _ in parts.algorithm.outer_steps():
            pass
    parts.env.close()


if __name__ == "__main__":
    with torch_threads(1):
        main(*sys.argv[1:])
