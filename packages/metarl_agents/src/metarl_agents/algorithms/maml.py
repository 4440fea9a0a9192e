"""MAML: initial parameters from which one policy-gradient step on a task gives a good policy for it.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), Algorithm 3, with its released code for reinforcement
learning. In each iteration, E episodes of each of T tasks are collected with the meta-learned parameters
theta. Every task takes a gradient step on its own episodes (the inner step),

    theta_i' = theta - alpha grad L_i(theta),  L_i = -mean(log pi_theta(a|s) A)              (eq. 1)

then E episodes are collected with each theta_i'. One trust-region step on theta (the outer step; Schulman
et al. 2015, arXiv:1502.05477) lowers the mean surrogate loss of the adapted policies

    mean_i -mean(pi_theta_i'(a|s) / pi_old(a|s) A)                                           (eq. 4)

under the constraint mean_i mean KL(pi_old || pi_theta_i') <= delta. Both are functions of theta and are
differentiated through the inner step. Advantages come from a linear feature baseline fitted to each task.
The log standard deviation is one vector, which adapts too.

Decided here: tasks are drawn from the family's training table. The curvature of the constraint is
estimated from part of the steps (conjugate gradient with exact products, damping 1e-5; ProMP's MAML has
finite differences and no damping), at the policies that adapt from these steps. A step is accepted on all
of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from metarl_agents.common.context import Context
from metarl_agents.common.threads import in_order
from metarl_agents.networks.functional import Gaussian
from metarl_agents.trials.adaptation import (
    adapted,
    chunks,
    distribution,
    likelihood_loss,
    mean_kl,
    ratio_loss,
)
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.policy import AdaptivePolicy, TrialAgent, perceptron_policy
from metarl_agents.trials.trust_region import TrustRegion, TrustRegionConfig, flat, trust_region_step


@dataclass(frozen=True)
class MAMLConfig(TrustRegionConfig):
    """Configuration of MAML.

    Attributes:
        inner_steps: gradient steps in a trial during meta-training; evaluation may take more.
        inner_step_size: step size alpha of these gradient steps.
        second_order: whether inner gradients are differentiated; false gives first-order MAML.
        later_step_scale: in evaluation, factor on alpha in all gradient steps of a trial except the
            first. The released code halves alpha.
    """

    inner_steps: int = 1
    inner_step_size: float = 0.1
    second_order: bool = True
    later_step_scale: float = 1.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*TrustRegionConfig.may_be_zero, "second_order")
    evaluation_keys: ClassVar[tuple[str, ...]] = (*TrustRegionConfig.evaluation_keys, "later_step_scale")


class MetaObjective:
    """Surrogate loss and KL divergence of adapted policies, as functions of the parameters theta.

    Args:
        policy: the policy, with its inner loss and step sizes.
        inner: the data of the inner steps, one sample per step.
        outer: the data that the adapted policies collected.
        second_order: whether inner gradients are differentiated.
        threads: number of threads that work on different tasks; results do not depend on it.
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
        """Adapts to some tasks (eq. 1); returns the adapted policies' action distributions and their data."""
        outer = self.outer.rows(rows)
        theta_T = self.policy.model.start(len(outer.obs))
        adapted_T = adapted(
            self.policy.model,
            theta_T,
            [sample.rows(rows) for sample in self.inner],
            self.policy.inner_loss,
            self.policy.step_sizes.by_name(),
            second_order=create_graph and self.second_order,
            max_norm=self.policy.max_norm,
        )
        with torch.set_grad_enabled(create_graph):
            return distribution(self.policy.model, adapted_T, outer), outer

    def gradient(self, theta: Sequence[nn.Parameter]) -> tuple[float, Tensor]:
        """Mean surrogate loss over tasks (eq. 4) and its gradient, one chunk of tasks at a time."""
        tasks, total = len(self.outer.obs), 0.0

        def of_chunk(rows: slice) -> tuple[float, Sequence[Tensor]]:
            loss = ratio_loss(*self.adapted_policy(rows, create_graph=True)).sum() / tasks
            return float(loss.detach()), torch.autograd.grad(loss, theta)

        sums = [torch.zeros_like(parameter) for parameter in theta]
        for loss, gradients in in_order(of_chunk, chunks(self.policy.model, self.outer), self.threads):
            total += loss
            for place, gradient in zip(sums, gradients, strict=True):
                place += gradient
        return total, flat(sums)

    def divergence(self) -> Tensor:
        """Mean KL divergence over tasks, with its graph over all of them.

        One thread builds it: in which order the gradients of one graph are added depends on the thread
        that built it.
        """
        parts = [
            mean_kl(*self.adapted_policy(rows, create_graph=True)).sum()
            for rows in chunks(self.policy.model, self.outer)
        ]
        return torch.stack(parts).sum() / len(self.outer.obs)

    def values(self) -> tuple[float, float]:
        """Mean surrogate loss and mean KL divergence over tasks, without gradients."""

        def of_chunk(rows: slice) -> Tensor:
            new, sample = self.adapted_policy(rows, create_graph=False)
            return torch.stack((ratio_loss(new, sample).sum(), mean_kl(new, sample).sum()))

        found = in_order(of_chunk, chunks(self.policy.model, self.outer), self.threads)
        surrogate, kl = (torch.stack(found).double().sum(0) / len(self.outer.obs)).tolist()
        return surrogate, kl

    def curvature_sample(self, fraction: float, generator: torch.Generator) -> MetaObjective:
        """The objective on a random part of each task's steps, for the curvature of the constraint.

        Inner steps on fewer data lead to other policies than those that acted. The divergence is
        therefore measured from the policies that result here: it is zero at the current theta, and its
        Hessian is positive semi-definite there, as on all steps.
        """

        def drawn(sample: Sample) -> Sample:
            tasks, steps = sample.advantage.shape
            noise = torch.rand(tasks, steps, generator=generator, device=generator.device)
            return sample.steps(noise.argsort(1)[:, : max(1, round(fraction * steps))])

        inner, outer = [drawn(sample) for sample in self.inner], drawn(self.outer)
        few = MetaObjective(self.policy, inner, outer, second_order=self.second_order)
        means, log_stds = [], []
        for rows in chunks(self.policy.model, outer):
            now, sample = few.adapted_policy(rows, create_graph=False)
            means.append(now.mean.detach())
            log_stds.append(now.log_std.detach().expand(len(sample.obs), -1, -1))
        few.outer = outer._replace(old=Gaussian(torch.cat(means), torch.cat(log_stds)))
        return few


#: What `outer_step` reports.
LOSS_NAMES = ("surrogate", "policy_kl", "step_length", "action_std")


def outer_step(
    objective: MetaObjective, config: TrustRegionConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Takes one trust-region step on theta, or none if no step length is accepted.

    Args:
        objective: surrogate loss and constraint.
        config: trust region and share of the steps for the curvature.
        generator: draws the steps from which the curvature is estimated.

    Returns:
        The scalars in `LOSS_NAMES`.
    """
    policy = objective.policy
    theta = list(policy.model.parameters())
    few = objective.curvature_sample(config.curvature_fraction, generator)
    result = trust_region_step(
        theta,
        gradient=lambda: objective.gradient(theta),
        curvature_kl=few.divergence,
        evaluate=objective.values,
        region=TrustRegion(radius=config.trust_radius),
    )
    action_std = policy.model.get_parameter("log_std").detach().exp().mean()
    values = (result.loss, result.kl, result.length, float(action_std))
    device = generator.device
    return {name: torch.tensor(value, device=device) for name, value in zip(LOSS_NAMES, values, strict=True)}


class MAML(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Model-agnostic meta-learning; see the module for the source."""

    config_class: ClassVar[type[MAMLConfig]] = MAMLConfig
    loss_names = LOSS_NAMES

    def __init__(self, *, policy: AdaptivePolicy, config: MAMLConfig, generator: torch.Generator) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.updates_per_iteration(config), generator)
        self.config = config

    @classmethod
    def from_config(cls, config: MAMLConfig, context: Context) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        policy = perceptron_policy(
            config, context, inner_step_size=config.inner_step_size, inner_loss=likelihood_loss
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: MAMLConfig) -> Sequence[str]:
        """Before each inner step, and after the last."""
        return adaptation_batches(config.inner_steps)

    @staticmethod
    def updates_per_iteration(config: MAMLConfig) -> int:
        """One."""
        return 1

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """One trust-region step on the data of all tasks."""
        *inner, outer = self.policy.samples
        objective = MetaObjective(
            self.policy, inner, outer, second_order=self.config.second_order, threads=self.threads
        )
        yield outer_step(objective, self.config, self.generator)

    def trial_agent(self) -> TrialAgent:
        """The trained agent, with the step sizes of an evaluation."""
        return TrialAgent(self.policy, later_step_scale=self.config.later_step_scale)
