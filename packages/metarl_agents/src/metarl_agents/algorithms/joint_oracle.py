"""Joint oracle: one policy for all tasks that observes the task, learned on policy.

The reference of Finn et al. 2017 (arXiv:1703.03400): trust-region policy optimisation (Schulman et al.
2015, arXiv:1502.05477) on tasks drawn in each iteration, with the task vector appended to the
observation. Network, baseline and outer step are MAML's, without inner steps. It is an upper bound for one
shared policy, not for policies trained per task. The off-policy `oracle` learns from fewer steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from metarl_agents.algorithms.maml import LOSS_NAMES, MetaObjective, outer_step
from metarl_agents.common.context import Context
from metarl_agents.trials.adaptation import likelihood_loss
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm
from metarl_agents.trials.policy import AdaptivePolicy, TrialAgent, perceptron_policy
from metarl_agents.trials.trust_region import TrustRegionConfig


@dataclass(frozen=True)
class JointOracleConfig(TrustRegionConfig):
    """Configuration of the joint oracle."""


class JointOracle(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Trust-region policy optimisation that observes the task; see the module for the source."""

    config_class: ClassVar[type[JointOracleConfig]] = JointOracleConfig
    observe_task: ClassVar[bool] = True
    loss_names = LOSS_NAMES

    def __init__(
        self, *, policy: AdaptivePolicy, config: JointOracleConfig, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.updates_per_iteration(config), generator)
        self.config = config

    @classmethod
    def from_config(cls, config: JointOracleConfig, context: Context) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        policy = perceptron_policy(config, context, inner_step_size=0.0, inner_loss=likelihood_loss)
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: JointOracleConfig) -> Sequence[str]:
        """One batch."""
        return ("task",)

    @staticmethod
    def updates_per_iteration(config: JointOracleConfig) -> int:
        """One."""
        return 1

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """The trust-region step."""
        (sample,) = self.policy.samples
        objective = MetaObjective(self.policy, (), sample, second_order=False, threads=self.threads)
        yield outer_step(objective, self.config, self.generator)

    def trial_agent(self) -> TrialAgent:
        """The trained agent, which has nothing to adapt."""
        return TrialAgent(self.policy, observe_task=True, adapts=False)
