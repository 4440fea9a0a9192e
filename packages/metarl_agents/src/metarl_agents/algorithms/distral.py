"""DISTRAL on SVG(0): a behaviour prior, distilled from the policies of all tasks, regularises them.

Teh et al. 2017 (arXiv:1707.04175) for continuous actions as in Galashov et al. 2020 (arXiv:2009.04875, eqs. 1
to 3), on top of SVG(0) with Retrace, of which it is an extension by definition. The prior sees the
observation only (Galashov et al. 2019, arXiv:1905.01240), so it learns what tasks have in common and can act
on any task. With `shared_q`, the critic is a product of shared features and a weight vector of the task
(eq. 12): this is the agent that the paper pre-trains for adaptation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl_agents.algorithms.svg0 import SVG0, SVG0Config
from metarl_agents.priors.learner import ChunkBatch
from metarl_agents.priors.samples import AFTER, BEFORE, at
from metarl_agents.priors.values import valid_mean


@dataclass(frozen=True)
class DistralConfig(SVG0Config):
    """Configuration of DISTRAL.

    Attributes:
        kl_cost: weight alpha of the KL divergence of the policy from the behaviour prior.
    """

    kl_cost: float = 0.01

    may_be_zero: ClassVar[tuple[str, ...]] = (*SVG0Config.may_be_zero, "kl_cost")


class Distral(SVG0):
    """DISTRAL on SVG(0) with Retrace; see the module for the source."""

    config_class: ClassVar[type[DistralConfig]] = DistralConfig
    config: DistralConfig
    has_prior = True
    loss_names = (*SVG0.loss_names, "prior_kl", "prior_loss", "prior_std")

    def losses(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of critic, policy and behaviour prior; all losses are those before the steps."""
        alpha, networks = self.config.kl_cost, self.policy.networks
        view = self.target_view(data)
        with torch.no_grad():
            slow_prior = self.target.network.prior(data.obs)
        policy = networks.actor(data.obs, data.task[:, None])
        # KL(pi(.|s, i) || pi0'(.|s)) at all states of the chunk, exact.
        divergence_BS = slow_prior.kl_from(policy)

        # V'(s) = mean_k Q'(s, a_k) - alpha KL, eq. 3. The KL term is that of the bootstrap states; the one of
        # s_t itself is not part of Q(s_t, a_t).
        next_value_BS = self.mean_value(data, view) - alpha * divergence_BS[:, AFTER].detach()
        critic_loss, returns = self.critic_step(data, view, next_value_BS)

        # L_pi = -(mean_k Q'(s, a_k) - alpha KL).
        acting = at(policy, BEFORE)
        improvement_BS, value_BS = self.improvement(data, view, acting)
        divergence_BS = divergence_BS[:, BEFORE]
        self.actor_optim.step(valid_mean(alpha * divergence_BS - improvement_BS, data.valid))

        # Distillation, eq. 2: KL(pi(.|s, i) || pi0(.|s)) as a function of pi0 alone.
        prior = networks.prior(data.obs[:, BEFORE])
        prior_loss = valid_mean(prior.kl_from(acting.detach()), data.valid)
        self.prior_optim.step(prior_loss)
        return {
            "value_error": critic_loss,
            "target_value": valid_mean(returns.target, data.valid),
            "policy_value": valid_mean(value_BS, data.valid),
            "action_std": valid_mean(acting.log_std.exp().mean(-1), data.valid),
            "trace": valid_mean(returns.trace, data.valid),
            "prior_kl": valid_mean(divergence_BS, data.valid),
            "prior_loss": prior_loss,
            "prior_std": valid_mean(prior.log_std.exp().mean(-1), data.valid),
        }
