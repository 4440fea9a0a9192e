"""MAML: parameters from which one policy-gradient step on a task makes a good policy.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400) with its released code for reinforcement learning. Each
iteration, of T tasks and E episodes each under the meta-learned policy theta:

    theta_i' = theta - alpha grad L_i(theta),  L_i = -mean(log pi_theta(a|s) A)              (eq. 1)

then E episodes each under theta_i', and one trust-region step on theta, differentiated through the
inner step. Advantages come from a linear feature baseline fitted per task; log sigma is one vector
and adapts too.

Decided here: tasks are drawn from the family's training table; the curvature is estimated from part of
the steps (conjugate gradient with exact products, damping 1e-5, where ProMP's MAML has finite
differences and none), at the policies that adapt from these steps, and the step is accepted on all of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from metarl_agents.common.context import Context
from metarl_agents.trials.adaptation import likelihood_loss
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches
from metarl_agents.trials.meta_trust_region import (
    LOSS_NAMES,
    MetaObjective,
    TrustRegionConfig,
    meta_trust_region_step,
)
from metarl_agents.trials.policy import AdaptivePolicy, TrialAgent, perceptron_policy


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


class MAML(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Model-agnostic meta-learning; see the module for the source."""

    config_class: ClassVar[type[MAMLConfig]] = MAMLConfig
    loss_names = LOSS_NAMES

    def __init__(self, *, policy: AdaptivePolicy, config: MAMLConfig, generator: torch.Generator) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.steps_per_update(config), generator)
        self.config = config

    @classmethod
    def from_config(
        cls,
        config: MAMLConfig,
        context: Context,
    ) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        policy = perceptron_policy(
            config,
            context,
            inner_step_size=config.inner_step_size,
            inner_loss=likelihood_loss,
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: MAMLConfig) -> Sequence[str]:
        """Before each inner step, and after the last."""
        return adaptation_batches(config.inner_steps)

    @staticmethod
    def steps_per_update(config: MAMLConfig) -> int:
        """One."""
        return 1

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """The trust-region step through the inner steps."""
        *inner, outer = self.policy.samples
        objective = MetaObjective(
            self.policy, inner, outer, second_order=self.config.second_order, threads=self.threads
        )
        yield meta_trust_region_step(objective, self.config, self.generator)

    def trial_agent(self) -> TrialAgent:
        """The trained agent, with the step sizes of an evaluation."""
        return TrialAgent(self.policy, later_step_scale=self.config.later_step_scale)
