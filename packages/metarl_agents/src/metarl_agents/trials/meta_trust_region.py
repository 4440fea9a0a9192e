"""The outer step of MAML: a trust-region step through every task's adaptation.

Finn et al. 2017 (arXiv:1703.03400) with Schulman et al. 2015 (arXiv:1502.05477): the surrogate is that
of the adapted policies, the constraint the mean KL divergence of the adapted policies from those that
acted, both as functions of the parameters before adaptation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metarl_agents.common.config import OnPolicyConfig
from metarl_agents.common.threads import in_order
from metarl_agents.networks.functional import Gaussian
from metarl_agents.trials.adaptation import adapted, chunks, distribution, mean_kl, ratio_loss
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.policy import AdaptivePolicy
from metarl_agents.trials.trust_region import TrustRegion, flat, trust_region_step


@dataclass(frozen=True)
class TrustRegionConfig(OnPolicyConfig):
    """Settings of agents with a trust-region step.

    Attributes:
        trust_radius: largest mean KL divergence of a step.
        curvature_fraction: fraction of each task's steps from which the curvature is estimated. All
            steps are used to accept or reject the update.
    """

    trust_radius: float = 0.01
    curvature_fraction: float = 0.1

    fractions: ClassVar[tuple[str, ...]] = (*OnPolicyConfig.fractions, "curvature_fraction")


class MetaObjective:
    """Surrogate and divergence of adapted policies on one iteration's data.

    Args:
        policy: the policy, with its inner loss and step sizes.
        inner: data of the inner steps.
        outer: data of the adapted policies.
        second_order: whether inner gradients are differentiated.
        threads: threads that tasks are shared among.
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        inner: Sequence[Sample],
        outer: Sample,
        *,
        second_order: bool,
        threads: int = 1,
    ) -> None:
        self.policy = policy
        self.inner = inner
        self.outer = outer
        self.second_order = second_order
        self.threads = threads

    def adapted_policy(self, rows: slice, *, create_graph: bool) -> tuple[Gaussian, Sample]:
        """Distributions of some tasks' adapted policies on their data, and those data."""
        outer = self.outer.rows(rows)
        own = adapted(
            self.policy.model,
            self.policy.model.start(len(outer.obs)),
            [sample.rows(rows) for sample in self.inner],
            self.policy.inner_loss,
            self.policy.step_sizes.by_name(),
            second_order=create_graph and self.second_order,
            max_norm=self.policy.max_norm,
        )
        with torch.set_grad_enabled(create_graph):
            return distribution(self.policy.model, own, outer), outer

    def gradient(self, parameters: Sequence[nn.Parameter]) -> tuple[float, Tensor]:
        """Mean surrogate over tasks and its gradient, chunk by chunk."""
        tasks, total = len(self.outer.obs), 0.0

        def part(rows: slice) -> tuple[float, Sequence[Tensor]]:
            loss = ratio_loss(*self.adapted_policy(rows, create_graph=True)).sum() / tasks
            return float(loss.detach()), torch.autograd.grad(loss, parameters)

        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for loss, gradients in in_order(part, chunks(self.policy.model, self.outer), self.threads):
            total += loss
            for place, gradient in zip(sums, gradients, strict=True):
                place += gradient
        return total, flat(sums)

    def divergence(self) -> Tensor:
        """Mean divergence over tasks, as a graph over all of them.

        Made by one thread: in which order gradients of one graph are added depends on who made it.
        """
        parts = [
            mean_kl(*self.adapted_policy(rows, create_graph=True)).sum()
            for rows in chunks(self.policy.model, self.outer)
        ]
        return torch.stack(parts).sum() / len(self.outer.obs)

    def values(self) -> tuple[float, float]:
        """Mean surrogate and mean divergence over tasks."""

        def part(rows: slice) -> Tensor:
            new, sample = self.adapted_policy(rows, create_graph=False)
            return torch.stack((ratio_loss(new, sample).sum(), mean_kl(new, sample).sum()))

        found = in_order(part, chunks(self.policy.model, self.outer), self.threads)
        surrogate, kl = (torch.stack(found).double().sum(0) / len(self.outer.obs)).tolist()
        return surrogate, kl

    def curvature_sample(self, fraction: float, generator: torch.Generator) -> MetaObjective:
        """The same on a random part of each task's steps, to differentiate its divergence twice.

        From fewer steps other policies adapt than those that acted. The divergence is therefore taken
        from the policies that adapt here: it is zero at the current parameters, and its curvature
        positive semi-definite, as that on all steps is.
        """

        def part(sample: Sample) -> Sample:
            tasks, steps = sample.advantage.shape
            noise = torch.rand(tasks, steps, generator=generator, device=generator.device)
            return sample.steps(noise.argsort(1)[:, : max(1, round(fraction * steps))])

        inner, outer = [part(sample) for sample in self.inner], part(self.outer)
        few = MetaObjective(self.policy, inner, outer, second_order=self.second_order)
        means, log_stds = [], []
        for rows in chunks(self.policy.model, outer):
            now, sample = few.adapted_policy(rows, create_graph=False)
            means.append(now.mean.detach())
            log_stds.append(now.log_std.detach().expand(len(sample.obs), -1, -1))
        few.outer = outer._replace(old=Gaussian(torch.cat(means), torch.cat(log_stds)))
        return few


#: What `meta_trust_region_step` reports.
LOSS_NAMES = ("surrogate", "policy_kl", "step_length", "action_std")


def meta_trust_region_step(
    objective: MetaObjective, config: TrustRegionConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """One step of the model's parameters, accepted on all data or not taken.

    Args:
        objective: what is lowered.
        config: radius and fraction.
        generator: draws the steps the curvature is estimated from.

    Returns:
        The scalars in `LOSS_NAMES`.
    """
    model = objective.policy.model
    parameters = list(model.parameters())
    few = objective.curvature_sample(config.curvature_fraction, generator)
    result = trust_region_step(
        parameters,
        gradient=lambda: objective.gradient(parameters),
        curvature_kl=few.divergence,
        evaluate=objective.values,
        region=TrustRegion(radius=config.trust_radius),
    )
    values = (result.loss, result.kl, result.length, float(model.log_std.detach().exp().mean()))  # type: ignore[operator]
    device = generator.device
    return {name: torch.tensor(value, device=device) for name, value in zip(LOSS_NAMES, values, strict=True)}
