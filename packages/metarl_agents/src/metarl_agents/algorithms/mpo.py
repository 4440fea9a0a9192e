"""Maximum a posteriori policy optimisation (MPO) over all training tasks, with a Retrace critic.

Abdolmaleki et al. 2018 (arXiv:1806.06920 and arXiv:1812.02256): actions of the target policy are weighted by
softmax(Q / eta) (E-step), and the policy is fitted to the weighted actions within a trust region whose mean
and standard deviation are bounded separately (M-step). Constants are those of the public implementation
(acme). Galashov et al. 2020 (arXiv:2009.04875) compare with it; the critic is that of the other agents here,
for comparability.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.optimisers import adam
from metarl_agents.priors.algorithm import MultiTaskAlgorithm
from metarl_agents.priors.config import RetraceConfig
from metarl_agents.priors.learner import ChunkBatch
from metarl_agents.priors.policy import MultiTaskPolicy
from metarl_agents.priors.retrace_critic import RetraceAlgorithm, TargetView
from metarl_agents.priors.samples import AFTER, BEFORE, at, log_prob
from metarl_agents.priors.values import (
    Positive,
    consistent_soft_value,
    effective_samples,
    kl_from_uniform,
    log_weights,
    temperature_dual,
    valid_mean,
)

#: Lower limit of the inputs of the softplus of the dual variables.
LOWEST_DUAL = -18.0


@dataclass(frozen=True)
class MPOConfig(RetraceConfig):
    """Configuration of MPO.

    Attributes:
        kl_bound: bound of the E-step: mean KL divergence of the weights from equal weights, in nats.
        mean_bound: bound of the M-step for the means: KL divergence per dimension of the action.
        std_bound: the same for the standard deviations.
        penalty_bound: as `kl_bound`, for the weights of the penalty on actions outside [-1, 1].
        initial_eta: temperatures of both kinds of weights before training.
        initial_mean_multiplier: Lagrange multipliers of `mean_bound` before training.
        initial_std_multiplier: Lagrange multipliers of `std_bound` before training.
        dual_learning_rate: Adam's step size for temperatures and multipliers.
    """

    action_samples: int = 20
    kl_bound: float = 0.1
    mean_bound: float = 2.5e-3
    std_bound: float = 1e-6
    penalty_bound: float = 1e-3
    initial_eta: float = 10.0
    initial_mean_multiplier: float = 10.0
    initial_std_multiplier: float = 1000.0
    dual_learning_rate: float = 1e-2


class Duals(nn.Module):
    """Temperatures of the weights and Lagrange multipliers of the trust region.

    Args:
        config: the configuration.
        actions: size A of an action; every dimension has its own multipliers.
    """

    def __init__(self, config: MPOConfig, actions: int) -> None:
        super().__init__()
        self.eta = Positive(config.initial_eta, lowest=LOWEST_DUAL)
        self.penalty_eta = Positive(config.initial_eta, lowest=LOWEST_DUAL)
        self.mean = Positive(config.initial_mean_multiplier, (actions,), lowest=LOWEST_DUAL)
        self.std = Positive(config.initial_std_multiplier, (actions,), lowest=LOWEST_DUAL)

    def limit(self) -> None:
        """See `Positive.limit`."""
        for number in (self.eta, self.penalty_eta, self.mean, self.std):
            number.limit()


class EStep(NamedTuple):
    """Result of the E-step.

    Attributes:
        weights: weights (B, S, K) of the actions; each state's sum to 2, 1 for values and 1 for the penalty.
        dual_loss: loss of the temperatures.
        log_weights: logarithms (B, S, K) of the weights for values.
    """

    weights: Tensor
    dual_loss: Tensor
    log_weights: Tensor


class MPO(RetraceAlgorithm[MultiTaskPolicy], MultiTaskAlgorithm):
    """MPO with a Retrace critic; see the module for the source."""

    config_class: ClassVar[type[MPOConfig]] = MPOConfig
    config: MPOConfig
    has_prior = False
    loss_names: ClassVar[tuple[str, ...]] = (
        "value_error", "target_value", "policy_value", "action_std", "trace", "eta", "weight_kl",
        "kl_exceeded", "effective_samples", "step_kl_mean", "step_kl_std",
    )  # fmt: skip

    def __init__(self, *, policy: MultiTaskPolicy, config: MPOConfig, generator: torch.Generator) -> None:
        super().__init__(policy=policy, config=config, generator=generator)
        self.duals = Duals(config, policy.action_space.shape[0]).to(self.device)
        self.duals_optim = self._create_optimizer(self.duals, adam(config.dual_learning_rate))

    def losses(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of critic, policy and dual variables; all losses are those before the steps."""
        view = self.target_view(data)
        action_BSKA, value_BSK = self.evaluated_actions(data, view)
        critic_loss, returns = self.critic_step(data, view, value_BSK[:, AFTER].mean(-1))

        action_BSKA, value_BSK = action_BSKA[:, BEFORE], value_BSK[:, BEFORE]
        estep = self.estep(data, action_BSKA, value_BSK)
        policy = self.policy.networks.actor(data.obs[:, BEFORE], data.task[:, None])
        fit, trust_region, multiplier_loss, step = self.mstep(data, view, policy, action_BSKA, estep.weights)
        self.actor_optim.step(fit + trust_region)
        result = self.report(data, estep, policy, step)
        self.duals_step(estep.dual_loss + multiplier_loss)
        return result | {
            "value_error": critic_loss,
            "target_value": valid_mean(returns.target, data.valid),
            "policy_value": valid_mean(value_BSK.mean(-1), data.valid),
            "trace": valid_mean(returns.trace, data.valid),
        }

    @torch.no_grad()
    def evaluated_actions(self, data: ChunkBatch, view: TargetView) -> tuple[Tensor, Tensor]:
        """Actions (B, S + 1, K, A) of the target policy in all states, and their values Q' (B, S + 1, K).

        Those in the states after a step estimate V', those in the states before it are for the E-step.
        """
        action_BSKA = self.sample(view.policy)
        return action_BSKA, self.target.network.critic.of_samples(view.mapped, data.task, action_BSKA)

    def estep(self, data: ChunkBatch, action_BSKA: Tensor, value_BSK: Tensor) -> EStep:
        """Weights softmax(Q / eta), and the dual losses eta (eps + mean logsumexp(Q / eta) - log K)."""
        config, duals = self.config, self.duals
        # The cost of an action outside of the bounds is its distance from them.
        cost_BSK = -(action_BSKA - action_BSKA.clamp(-1.0, 1.0)).norm(dim=-1)
        dual_loss = torch.zeros_like(value_BSK[0, 0, 0])
        logs = []
        for score_BSK, number, bound in (
            (value_BSK, duals.eta, config.kl_bound),
            (cost_BSK, duals.penalty_eta, config.penalty_bound),
        ):
            eta = number()
            logs.append(log_weights(score_BSK, eta.detach()))
            soft_BS = consistent_soft_value(score_BSK, eta) / eta
            dual_loss = dual_loss + temperature_dual(eta, valid_mean(soft_BS, data.valid), bound)
        return EStep(logs[0].exp() + logs[1].exp(), dual_loss, logs[0])

    def mstep(
        self, data: ChunkBatch, view: TargetView, policy: Gaussian, action_BSKA: Tensor, weights_BSK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Losses of the fit, of the trust region and of its multipliers, and both mean KLs (A,)."""
        old = at(view.policy, BEFORE)
        # The mean is fitted with the old standard deviation and the standard deviation with the old mean.
        parts = (Gaussian(policy.mean, old.log_std), Gaussian(old.mean, policy.log_std))
        fit = trust_region = multiplier_loss = torch.zeros_like(weights_BSK[0, 0, 0])
        divergences = []
        for part, number, bound in zip(
            parts,
            (self.duals.mean, self.duals.std),
            (self.config.mean_bound, self.config.std_bound),
            strict=True,
        ):
            log_prob_BSK = log_prob(part, action_BSKA)
            fit = fit - valid_mean((weights_BSK * log_prob_BSK).sum(-1), data.valid)
            # Per dimension of the action: each one is a distribution of its own.
            each = Gaussian(part.mean[..., None], part.log_std[..., None])
            divergence_BSA = each.kl_from(Gaussian(old.mean[..., None], old.log_std[..., None]))
            divergence_A = torch.stack([valid_mean(d_BS, data.valid) for d_BS in divergence_BSA.unbind(-1)])
            multiplier_A = number()
            trust_region = trust_region + (multiplier_A.detach() * divergence_A).sum()
            multiplier_loss = multiplier_loss + (multiplier_A * (bound - divergence_A.detach())).sum()
            divergences.append(divergence_A.detach())
        return fit, trust_region, multiplier_loss, (divergences[0], divergences[1])

    def duals_step(self, loss: Tensor) -> None:
        """One step of temperatures and multipliers."""
        self.duals_optim.step(loss)
        self.duals.limit()

    def report(
        self, data: ChunkBatch, estep: EStep, policy: Gaussian, step: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Scalars about the E- and the M-step."""
        divergence_BS = kl_from_uniform(estep.log_weights)
        exceeded_BS = (divergence_BS > self.config.kl_bound).to(divergence_BS)
        return {
            "action_std": valid_mean(policy.log_std.exp().mean(-1), data.valid),
            "eta": self.duals.eta(),
            "weight_kl": valid_mean(divergence_BS, data.valid),
            "kl_exceeded": valid_mean(exceeded_BS, data.valid),
            "effective_samples": valid_mean(effective_samples(estep.log_weights), data.valid),
            "step_kl_mean": step[0].sum(),
            "step_kl_std": step[1].sum(),
        }
