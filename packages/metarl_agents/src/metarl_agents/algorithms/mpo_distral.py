"""MPO with DISTRAL: MPO whose policy is also regularised towards a behaviour prior distilled from it.

Galashov et al. 2020 (arXiv:2009.04875, section 6) describe it in one sentence: the KL divergence from the
learned prior is a soft constraint in the M-step, and values are soft (eq. 3). It extends MPO by definition.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl_agents.algorithms.mpo import MPO, MPOConfig
from metarl_agents.priors.learner import ChunkBatch
from metarl_agents.priors.samples import AFTER, BEFORE, at
from metarl_agents.priors.values import valid_mean


@dataclass(frozen=True)
class MPODistralConfig(MPOConfig):
    """Configuration of MPO with DISTRAL.

    Attributes:
        kl_cost: weight alpha of the KL divergence of the policy from the behaviour prior.
    """

    kl_cost: float = 0.01

    may_be_zero: ClassVar[tuple[str, ...]] = (*MPOConfig.may_be_zero, "kl_cost")


class MPODistral(MPO):
    """MPO with a behaviour prior; see the module for the source."""

    config_class: ClassVar[type[MPODistralConfig]] = MPODistralConfig
    config: MPODistralConfig
    has_prior = True
    loss_names = (*MPO.loss_names, "prior_kl", "prior_loss", "prior_std")

    def losses(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of critic, policy, prior and dual variables; all losses are those before the steps."""
        alpha, networks = self.config.kl_cost, self.policy.networks
        view = self.target_view(data)
        with torch.no_grad():
            slow_prior = self.target.network.prior(data.obs)
        # KL(pi(.|s, i) || pi0'(.|s)) at all states of the chunk, exact.
        everywhere = networks.actor(data.obs, data.task[:, None])
        divergence_BS = slow_prior.kl_from(everywhere)
        policy = at(everywhere, BEFORE)

        # V'(s) = mean_k Q'(s, a_k) - alpha KL, eq. 3.
        action_BSKA, value_BSK = self.evaluated_actions(data, view)
        next_value_BS = value_BSK[:, AFTER].mean(-1) - alpha * divergence_BS[:, AFTER].detach()
        critic_loss, returns = self.critic_step(data, view, next_value_BS)

        action_BSKA, value_BSK = action_BSKA[:, BEFORE], value_BSK[:, BEFORE]
        estep = self.estep(data, action_BSKA, value_BSK)
        fit, trust_region, multiplier_loss, step = self.mstep(data, view, policy, action_BSKA, estep.weights)
        divergence = valid_mean(divergence_BS[:, BEFORE], data.valid)
        self.actor_optim.step(fit + trust_region + alpha * divergence)

        # Distillation, eq. 2: KL(pi(.|s, i) || pi0(.|s)) as a function of pi0 alone.
        prior = networks.prior(data.obs[:, BEFORE])
        prior_loss = valid_mean(prior.kl_from(policy.detach()), data.valid)
        self.prior_optim.step(prior_loss)
        result = self.report(data, estep, policy, step)
        self.duals_step(estep.dual_loss + multiplier_loss)
        return result | {
            "value_error": critic_loss,
            "target_value": valid_mean(returns.target, data.valid),
            "policy_value": valid_mean(value_BSK.mean(-1), data.valid),
            "trace": valid_mean(returns.trace, data.valid),
            "prior_kl": divergence,
            "prior_loss": prior_loss,
            "prior_std": valid_mean(prior.log_std.exp().mean(-1), data.valid),
        }
