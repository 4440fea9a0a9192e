"""ProMP: proximal meta-policy search, MAML with a meta-gradient of low variance and a clipped outer step.

Rothfuss et al. 2019 (arXiv:1810.06784) with its released code. The inner step differentiates the
likelihood ratio instead of the log-likelihood (section 5),

    theta_i' = theta + alpha grad mean(pi_theta(a|s) / pi_old(a|s) A),

and the outer loss of the adapted policies is PPO's clipped surrogate plus a penalty on how far the
policy before adaptation has moved (section 6):

    -mean_i mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A)) + eta mean_i mean KL(pi_old || pi_theta).

Several Adam steps are taken on the same data; each recomputes the inner step from the current theta.

Decided here: with several inner steps the penalty is that of the policy before the first, as the paper's
equation has it; the released code averages it over the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from metarl_agents.common.config import OnPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.networks.optimisers import adam
from metarl_agents.trials.adaptation import (
    adapted,
    clipped_loss,
    distribution,
    mean_kl,
    ratio_loss,
)
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches
from metarl_agents.trials.policy import AdaptivePolicy, perceptron_policy


@dataclass(frozen=True)
class ProMPConfig(OnPolicyConfig):
    """Configuration of ProMP.

    Attributes:
        inner_steps: gradient steps in a trial during meta-training; evaluation may take more.
        inner_step_size: step size alpha of these gradient steps.
        outer_steps: Adam steps on the data of one iteration.
        clip: epsilon, clipping range of the probability ratios.
        kl_penalty: eta, weight of the divergence before adaptation, or its initial value.
        kl_target: eta doubles if that divergence is above 1.5 times this target after the last step
            of an iteration, and halves if it is below the target divided by 1.5; 0: constant eta.
    """

    inner_steps: int = 1
    inner_step_size: float = 0.1
    outer_steps: int = 5
    clip: float = 0.3
    kl_penalty: float = 5e-4
    kl_target: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*OnPolicyConfig.may_be_zero, "kl_penalty", "kl_target")


class ProMP(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Proximal meta-policy search; see the module for the source."""

    config_class: ClassVar[type[ProMPConfig]] = ProMPConfig
    loss_names = ("surrogate", "policy_kl", "start_kl", "kl_penalty", "action_std")
    kl_penalty: Tensor

    def __init__(self, *, policy: AdaptivePolicy, config: ProMPConfig, generator: torch.Generator) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.updates_per_iteration(config), generator)
        self.config = config
        self.register_buffer("kl_penalty", torch.tensor(config.kl_penalty, device=generator.device))
        self.optim = self._create_optimizer(policy.model, adam(config.learning_rate))

    @classmethod
    def from_config(
        cls,
        config: ProMPConfig,
        context: Context,
    ) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        policy = perceptron_policy(
            config,
            context,
            inner_step_size=config.inner_step_size,
            inner_loss=ratio_loss,
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: ProMPConfig) -> Sequence[str]:
        """Before each inner step, and after the last."""
        return adaptation_batches(config.inner_steps)

    @staticmethod
    def updates_per_iteration(config: ProMPConfig) -> int:
        """The outer steps."""
        return config.outer_steps

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Adam steps on the clipped surrogate of the adapted policies."""
        for _ in range(self.config.outer_steps):
            found = self.step_on_pieces()
            yield {
                **dict(zip(self.loss_names[:3], found, strict=True)),
                "kl_penalty": self.kl_penalty.clone(),
                "action_std": self.policy.model.get_parameter("log_std").detach().exp().mean(),
            }
        if self.config.kl_target:
            # After the last step, as the released code measures it.
            start_kl = self.start_kl()
            if start_kl > 1.5 * self.config.kl_target:
                self.kl_penalty *= 2
            elif start_kl < self.config.kl_target / 1.5:
                self.kl_penalty /= 2

    def start_kl(self) -> float:
        """How far the policy before adaptation has moved from the one that acted: mean KL over tasks."""
        return float(torch.stack(self.on_pieces("start_kl_of")).sum())

    @torch.no_grad()
    def start_kl_of(self, rows: slice) -> Tensor:
        """The contribution of some tasks to `start_kl`."""
        model, sample = self.policy.model, self.policy.samples[0].rows(rows)
        new = distribution(model, model.start(len(sample.obs)), sample)
        return mean_kl(new, sample).sum() / self.num_tasks

    def loss(self, rows: slice) -> tuple[Tensor, Tensor]:
        """What some tasks add to the loss, and to the surrogate and the divergences after and before."""
        policy, config = self.policy, self.config
        *inner, outer = policy.samples
        model, tasks = policy.model, self.num_tasks
        parts, after = [sample.rows(rows) for sample in inner], outer.rows(rows)
        start = model.start(len(after.obs))
        before = distribution(model, start, parts[0])
        own = adapted(
            model,
            start,
            parts,
            ratio_loss,
            policy.step_sizes.by_name(),
            second_order=True,
            first=before,
        )
        new = distribution(model, own, after)
        surrogate = clipped_loss(new, after, config.clip).sum() / tasks
        start_kl = mean_kl(before, parts[0]).sum() / tasks
        with torch.no_grad():
            policy_kl = mean_kl(new, after).sum() / tasks
        found = torch.stack((surrogate.detach(), policy_kl, start_kl.detach()))
        return surrogate + self.kl_penalty * start_kl, found
