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
from torch import Tensor

from metarl_agents.common.context import Context
from metarl_agents.common.seeding import part_seed
from metarl_agents.networks.functional import Gaussian
from metarl_agents.trials.adaptation import (
    adapted,
    distribution,
    likelihood_loss,
    mean_kl,
    ratio_loss,
)
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.policy import AdaptivePolicy, TrialAgent, perceptron_policy
from metarl_agents.trials.trust_region import (
    Product,
    TrustRegion,
    TrustRegionConfig,
    flat,
    hessian_product,
    trust_region_step,
)


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
    """Surrogate loss and KL divergence of adapted policies of some tasks, as functions of theta.

    Args:
        policy: the policy, with its inner loss and step sizes.
        inner: the data of the inner steps, one sample per step.
        outer: the data that the adapted policies collected.
        second_order: whether inner gradients are differentiated.
        tasks: number of tasks of the means, to which these tasks contribute; by default these tasks.
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        inner: Sequence[Sample],
        outer: Sample,
        *,
        second_order: bool,
        tasks: int | None = None,
    ) -> None:
        self.policy = policy
        self.inner = inner
        self.outer = outer
        self.second_order = second_order
        self.tasks = tasks or len(outer.obs)

    def adapted_policy(self, *, create_graph: bool) -> Gaussian:
        """Adapts to every task (eq. 1); returns the adapted policies' action distributions."""
        theta_T = self.policy.model.start(len(self.outer.obs))
        adapted_T = adapted(
            self.policy.model,
            theta_T,
            self.inner,
            self.policy.inner_loss,
            self.policy.step_sizes.by_name(),
            second_order=create_graph and self.second_order,
            max_norm=self.policy.max_norm,
        )
        with torch.set_grad_enabled(create_graph):
            return distribution(self.policy.model, adapted_T, self.outer)

    def gradient(self, theta: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Contribution to the mean surrogate loss over tasks (eq. 4), and its gradient as one vector."""
        loss = ratio_loss(self.adapted_policy(create_graph=True), self.outer).sum() / self.tasks
        return loss.detach(), flat(torch.autograd.grad(loss, theta))

    def divergence(self) -> Tensor:
        """Contribution to the mean KL divergence over tasks, with its graph."""
        return mean_kl(self.adapted_policy(create_graph=True), self.outer).sum() / self.tasks

    def values(self) -> Tensor:
        """Contributions (2,) to the mean surrogate loss and the mean KL divergence, without gradients."""
        new = self.adapted_policy(create_graph=False).detach()
        sums = torch.stack((ratio_loss(new, self.outer).sum(), mean_kl(new, self.outer).sum()))
        return sums.double() / self.tasks

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
        few = MetaObjective(self.policy, inner, outer, second_order=self.second_order, tasks=self.tasks)
        few.outer = outer._replace(old=few.adapted_policy(create_graph=False).detach())
        return few


class TrustRegionAlgorithm(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """A trust-region step on the mean surrogate loss of adapted policies: MAML and the joint oracle.

    The step itself is `trust_region_step`. Its parts are sums over tasks; the methods with an argument
    `rows` compute the contributions of some tasks.
    """

    loss_names = ("surrogate", "policy_kl", "step_length", "action_std")
    config: TrustRegionConfig

    def __init__(
        self, *, policy: AdaptivePolicy, config: TrustRegionConfig, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.updates_per_iteration(config), generator)
        self.config = config
        self.hessians: dict[int, Product] = {}

    @staticmethod
    def updates_per_iteration(config: TrustRegionConfig) -> int:
        """One."""
        return 1

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """One trust-region step on the data of all tasks, or none if no step length is accepted."""
        model = self.policy.model

        def gradient() -> tuple[float, Tensor]:
            losses, gradients = zip(*self.on_pieces("surrogate_gradient"), strict=True)
            return sum(float(loss) for loss in losses), in_turn(gradients)

        def curvature() -> Product:
            seed = int(torch.randint(2**62, (), generator=self.generator, device=self.device))
            self.on_pieces("prepare_curvature", seed, keep=True)
            return lambda vector: in_turn(self.on_pieces("curvature_product", vector))

        def evaluate() -> tuple[float, float]:
            surrogate, kl = in_turn(self.on_pieces("surrogate_and_kl")).tolist()
            return surrogate, kl

        result = trust_region_step(
            list(model.parameters()),
            gradient=gradient,
            curvature=curvature,
            evaluate=evaluate,
            region=TrustRegion(radius=self.config.trust_radius),
        )
        self.hessians.clear()
        action_std = model.get_parameter("log_std").detach().exp().mean()
        values = (result.loss, result.kl, result.length, float(action_std))
        yield {
            name: torch.tensor(value, device=self.device)
            for name, value in zip(self.loss_names, values, strict=True)
        }

    def objective(self, rows: slice) -> MetaObjective:
        """The objective of some tasks."""
        *inner, outer = (sample.rows(rows) for sample in self.policy.samples)
        return MetaObjective(
            self.policy, inner, outer, second_order=self.second_order(), tasks=self.num_tasks
        )

    def second_order(self) -> bool:
        """Whether inner gradients are differentiated."""
        return False

    def surrogate_gradient(self, rows: slice) -> tuple[Tensor, Tensor]:
        """See `MetaObjective.gradient`."""
        return self.objective(rows).gradient(list(self.policy.model.parameters()))

    def surrogate_and_kl(self, rows: slice) -> Tensor:
        """See `MetaObjective.values`."""
        return self.objective(rows).values()

    def curvature_objective(self, rows: slice, seed: int) -> MetaObjective:
        """The objective on the part of the steps from which the curvature is estimated."""
        generator = torch.Generator(self.device).manual_seed(part_seed(seed, self.first_task + rows.start))
        return self.objective(rows).curvature_sample(self.config.curvature_fraction, generator)

    def prepare_curvature(self, rows: slice, seed: int) -> None:
        """Differentiates the divergence once, and keeps the graph for `curvature_product`."""
        few = self.curvature_objective(rows, seed)
        self.hessians[rows.start] = hessian_product(few.divergence(), list(self.policy.model.parameters()))

    def curvature_product(self, rows: slice, vector: Tensor) -> Tensor:
        """The contribution to the product of the Hessian of the mean divergence with a vector."""
        return self.hessians[rows.start](vector)


def in_turn(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, added one after the other."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


class MAML(TrustRegionAlgorithm):
    """Model-agnostic meta-learning; see the module for the source."""

    config_class: ClassVar[type[MAMLConfig]] = MAMLConfig
    config: MAMLConfig

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

    def second_order(self) -> bool:
        """As configured."""
        return self.config.second_order

    def trial_agent(self) -> TrialAgent:
        """The trained agent, with the step sizes of an evaluation."""
        return TrialAgent(self.policy, later_step_scale=self.config.later_step_scale)
