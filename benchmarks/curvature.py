"""How many steps are needed to estimate the curvature of a trust-region step.

    python curvature.py AGENT ID PRESET

Overrides of the form key=value may follow.

Compares the direction computed from a fraction of each task's steps with the one from all steps: the cosine
of the two, and the fraction of the surrogate's predicted gain within the trust region, g.d / sqrt(d.Hd) with
gradient g and curvature H of all steps. Means over three draws, at the first iteration and after ten.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from metarl_agents.algorithms.maml import MetaObjective, TrustRegionAlgorithm, in_turn
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
    hessian_product,
)

FRACTIONS = (0.1, 0.25, 0.5)
DRAWS, ITERATIONS = 3, 10


class Direction:
    """The direction from all steps, and comparisons of others with it."""

    def __init__(self, objectives: Sequence[MetaObjective]) -> None:
        self.objectives = objectives
        self.region = TrustRegion()
        self.parameters = list(objectives[0].policy.model.parameters())
        self.slope = in_turn([objective.gradient(self.parameters)[1] for objective in objectives])
        self.curvature = self.product(objectives)
        self.best = self.solve(self.curvature)

    def product(self, objectives: Sequence[MetaObjective]) -> Product:
        """Returns products with the damped curvature of objectives of different tasks."""
        parts = [hessian_product(objective.divergence(), self.parameters) for objective in objectives]
        return lambda v: in_turn([part(v) for part in parts]) + self.region.damping * v

    def solve(self, product: Product) -> Tensor:
        """Returns the direction for a curvature."""
        return conjugate_gradient(product, self.slope, self.region.iterations)

    def gain(self, step: Tensor) -> Tensor:
        """Returns the gain within the region that a direction promises, up to a factor."""
        return (self.slope @ step) / (step @ self.curvature(step)).sqrt()

    def quality(self, fraction: float, generator: torch.Generator) -> tuple[float, float]:
        """Returns cosine and share of the gain of a direction from part of the steps."""
        few = [objective.curvature_sample(fraction, generator) for objective in self.objectives]
        ours = self.solve(self.product(few))
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
            algorithm = parts.algorithm
            assert isinstance(algorithm, TrustRegionAlgorithm)
            pieces = algorithm.policy.pieces(*algorithm.policy.taken)
            direction = Direction([algorithm.objective(rows) for rows in pieces])
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
