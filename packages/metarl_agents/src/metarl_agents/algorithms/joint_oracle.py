"""Joint oracle: one policy for all tasks that observes the task, learned on policy.

The reference of Finn et al. 2017 (arXiv:1703.03400): trust-region policy optimisation (Schulman et al.
2015, arXiv:1502.05477) on tasks drawn in each iteration, with the task vector appended to the
observation. Network, baseline and outer step are MAML's, without inner steps. It is an upper bound for one
shared policy, not for policies trained per task. The off-policy `oracle` learns from fewer steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from metarl_agents.algorithms.maml import TrustRegionAlgorithm
from metarl_agents.common.context import Context
from metarl_agents.trials.adaptation import likelihood_loss
from metarl_agents.trials.policy import TrialAgent, perceptron_policy
from metarl_agents.trials.trust_region import TrustRegionConfig


@dataclass(frozen=True)
class JointOracleConfig(TrustRegionConfig):
    """Configuration of the joint oracle."""


class JointOracle(TrustRegionAlgorithm):
    """Trust-region policy optimisation that observes the task; see the module for the source."""

    config_class: ClassVar[type[JointOracleConfig]] = JointOracleConfig
    observe_task: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: JointOracleConfig, context: Context) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        policy = perceptron_policy(config, context, inner_step_size=0.0, inner_loss=likelihood_loss)
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: JointOracleConfig) -> Sequence[str]:
        """One batch."""
        return ("task",)

    def trial_agent(self) -> TrialAgent:
        """The trained agent, which has nothing to adapt."""
        return TrialAgent(self.policy, observe_task=True, adapts=False)
