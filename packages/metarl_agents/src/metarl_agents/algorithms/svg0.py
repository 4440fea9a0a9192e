"""SVG(0) with Retrace: an actor-critic whose policy follows the gradient of the critic in the actions.

Heess et al. 2015 (arXiv:1510.09142) with the off-policy corrections of Munos et al. 2016 (arXiv:1606.02647),
over all training tasks at once. Galashov et al. 2020 (arXiv:2009.04875) call it RS(0): it is their baseline
without a behaviour prior. Policy and critic receive the id of the training task, so neither can be used on
other tasks.

The paper gives neither the sizes of networks nor the number of action samples; these are from the public code
of the same group (acme). There is one critic, and the target networks are copies that are replaced at
regular intervals.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl_agents.networks.functional import Gaussian
from metarl_agents.priors.algorithm import ChunkBatch
from metarl_agents.priors.config import RetraceConfig
from metarl_agents.priors.retrace_critic import RetraceAlgorithm, TargetView
from metarl_agents.priors.samples import AFTER, BEFORE, at
from metarl_agents.priors.values import valid_mean


@dataclass(frozen=True)
class SVG0Config(RetraceConfig):
    """Configuration of SVG(0).

    Attributes:
        entropy_cost: weight of the entropy of the policy in its loss. The entropy is that of the
            Gaussian; the estimate in the public code, from samples without a gradient, has an expected
            gradient of zero.
    """

    entropy_cost: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*RetraceConfig.may_be_zero, "entropy_cost")


class SVG0(RetraceAlgorithm):
    """SVG(0) with Retrace; see the module for the source."""

    config_class: ClassVar[type[SVG0Config]] = SVG0Config
    config: SVG0Config
    has_prior = False
    loss_names: ClassVar[tuple[str, ...]] = (
        "value_error",
        "target_value",
        "policy_value",
        "action_std",
        "trace",
    )

    def losses(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of the critic, then of the policy, both with the target networks."""
        view = self.target_view(data)
        # V'(s) = mean_k Q'(s, a_k), a_k ~ pi'(.|s).
        next_value_BS = self.mean_value(data, view)
        critic_loss, returns = self.critic_step(data, view, next_value_BS)

        policy = self.policy.networks.actor(data.obs[:, BEFORE], data.task[:, None])
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
    def mean_value(self, data: ChunkBatch, view: TargetView) -> Tensor:
        """Mean of Q' over actions (B, S) of the target policy in the states after each step."""
        action_BSKA = self.sample(at(view.policy, AFTER))
        critic = self.target.network.critic
        return critic.of_samples(view.mapped[:, AFTER], data.task, action_BSKA).mean(-1)

    def improvement(self, data: ChunkBatch, view: TargetView, policy: Gaussian) -> tuple[Tensor, Tensor]:
        """What the policy maximises, up to a constant, and the mean of Q' over its actions, both (B, S).

        mean_k Q'(s, a_k) + c H(pi), a_k = mean + std * noise. Its gradient is that of Q' in the actions times
        that of the actions in the parameters, so Q' is differentiated first and its graph is not kept.
        """
        action_BSKA = self.sample(policy)
        value_BSK, slope_BSKA = self.target.network.critic.slopes_of_samples(
            view.mapped[:, BEFORE], data.task, action_BSKA
        )
        gain_BS = (action_BSKA * slope_BSKA).sum(-1).mean(-1)
        return gain_BS + self.config.entropy_cost * policy.entropy(), value_BSK.mean(-1)
