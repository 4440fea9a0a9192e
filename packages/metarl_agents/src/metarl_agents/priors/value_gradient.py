"""The update of SVG(0): a critic by Retrace, and a policy that follows its gradient in the actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl_agents.networks.functional import Gaussian
from metarl_agents.priors.learner import TPolicy
from metarl_agents.priors.retrace_critic import RetraceAlgorithm
from metarl_agents.priors.samples import AFTER, BEFORE
from metarl_agents.priors.values import valid_mean

#: Names of what `ValueGradientAlgorithm.losses` returns.
LOSSES = ("value_error", "target_value", "policy_value", "action_std", "trace")


class ValueGradientAlgorithm(RetraceAlgorithm[TPolicy]):
    """The update of SVG(0) with Retrace, for any inputs that say or infer which task it is."""

    def losses(self, data: Any) -> dict[str, Tensor]:
        """One step of the critic, then of the policy."""
        return self.value_gradient_step(data)

    def acting(self, data: Any) -> Gaussian:
        """The policy in the states before each step. No gradient reaches what has inferred the task."""
        policy: Gaussian = self.policy.networks.actor(data.obs[:, BEFORE], data.task.detach()[:, None])
        return policy

    def value_gradient_step(self, data: Any, penalty: Tensor | float = 0.0) -> dict[str, Tensor]:
        """One step of the critic, then of the policy, both with the target networks.

        Args:
            data: a `ChunkBatch`, or what has its fields.
            penalty: see `critic_step`.
        """
        view = self.target_view(data)
        # V'(s) = mean_k Q'(s, a_k), a_k ~ pi'(.|s).
        next_value_BS = self.mean_value(data, view)
        critic_loss, returns = self.critic_step(data, view, next_value_BS, penalty)

        policy = self.acting(data)
        improvement_BS, value_BS = self.improvement(data, view, policy)
        self.actor_optim.step(-valid_mean(improvement_BS, data.valid))
        return {
            "value_error": critic_loss,
            "target_value": valid_mean(returns.target, data.valid),
            "policy_value": valid_mean(value_BS, data.valid),
            "action_std": valid_mean(policy.log_std.exp().mean(-1), data.valid),
            "trace": valid_mean(returns.trace, data.valid),
        }

    @torch.no_grad()
    def mean_value(self, data: Any, view: Any) -> Tensor:
        """Mean of Q' over actions (B, S) of the target policy in the states after each step."""
        action_BSKA = self.sample(view.policy_at(AFTER))
        critic = self.target.network.critic
        values_BSK: Tensor = critic.of_samples(view.mapped_at(AFTER), data.task, action_BSKA)
        return values_BSK.mean(-1)

    def improvement(self, data: Any, view: Any, policy: Gaussian) -> tuple[Tensor, Tensor]:
        """What the policy maximises, up to a constant, and the mean of Q' over its actions, both (B, S).

        mean_k Q'(s, a_k) + c H(pi), a_k = mean + std * noise. Its gradient is that of Q' in the actions times
        that of the actions in the parameters, so Q' is differentiated first and its graph is not kept.
        """
        action_BSKA = self.sample(policy)
        value_BSK, slope_BSKA = self.target.network.critic.slopes_of_samples(
            view.mapped_at(BEFORE), data.task, action_BSKA
        )
        gain_BS = (action_BSKA * slope_BSKA).sum(-1).mean(-1)
        return gain_BS + self.config.entropy_cost * policy.entropy(), value_BSK.mean(-1)
