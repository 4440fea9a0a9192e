"""Importance weighted policy learning: acts by weighted samples of a behaviour prior, without a policy.

Galashov et al. 2020, "Importance Weighted Policy Learning and Adaptation" (arXiv:2009.04875), section 3,
Algorithm 1 and eqs. 5 to 11. The improved policy is proportional to pi0(a|s) exp(Q_i(s, a) / alpha); K
actions drawn from the prior pi0 with the weights q = softmax(Q_i / alpha) approximate it in acting, in the
critic's target and in the improvement of the prior. The task reaches the critic only. The temperature alpha
belongs to the bound of eq. 8 on the KL divergence of the weights from the prior.

Decisions where the paper is silent or cannot be meant literally:

- Eq. 10 divides the probability of a sample by a density. By default (`soft_value`, "consistent"), weights
  are compared with equal weights, which are those of samples of the prior; the value converges to eq. 3.
- The divergence of K weights from equal weights is at most log K, and the paper's bounds are 30 to 100. Eq. 8
  sums over tasks, so the bound of a state is the paper's divided by the number of tasks (`bound_scope`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl_agents.networks.optimisers import adam
from metarl_agents.priors.algorithm import MultiTaskAlgorithm
from metarl_agents.priors.config import MultiTaskConfig
from metarl_agents.priors.learner import ChunkBatch
from metarl_agents.priors.policy import MultiTaskPolicy
from metarl_agents.priors.samples import AFTER, BEFORE, at, log_prob
from metarl_agents.priors.values import (
    Positive,
    consistent_soft_value,
    effective_samples,
    kl_from_uniform,
    literal_soft_value,
    log_weights,
    temperature_dual,
    valid_mean,
)


@dataclass(frozen=True)
class IWPLConfig(MultiTaskConfig):
    """Configuration of IWPL.

    Attributes:
        hidden: widths of the hidden layers of the behaviour prior.
        acting_samples: actions of the prior from which one is chosen in acting.
        soft_value: "consistent" or "literal" (eq. 10 as printed), see the module.
        kl_bound: epsilon of eq. 8, in nats.
        bound_scope: "sum" if the bound is on the sum over training tasks, as in eq. 8; "task" if it is
            on each task.
        initial_temperature: alpha before training.
        temperature: "dual" if alpha follows the bound, or "fixed".
        dual_learning_rate: Adam's step size for alpha.
    """

    action_samples: int = 64
    acting_samples: int = 256
    soft_value: str = "consistent"
    kl_bound: float = 50.0
    bound_scope: str = "sum"
    initial_temperature: float = 0.1
    temperature: str = "dual"
    dual_learning_rate: float = 5e-4

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **MultiTaskConfig.choices,
        "soft_value": ("consistent", "literal"),
        "bound_scope": ("sum", "task"),
        "temperature": ("dual", "fixed"),
    }


class IWPLPolicy(MultiTaskPolicy):
    """Samples of the prior, of which one is chosen with the weights of eq. 6.

    If it is deterministic, it chooses the one with the highest value.
    """

    temperature: Positive

    def choose(self, obs_RO: Tensor, task_RD: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """See `MultiTaskPolicy.choose`; the density is that of the prior, from which actions are drawn."""
        networks, samples = self.networks, self.config.acting_samples
        prior = networks.prior(obs_RO)
        noise_RKA = torch.randn(
            (len(obs_RO), samples, prior.mean.shape[-1]),
            generator=self.generator,
            device=obs_RO.device,
        )
        action_RKA = prior.mean[:, None] + prior.log_std.exp()[:, None] * noise_RKA
        mapped_R1H = networks.critic.map_states(obs_RO[:, None], task_RD)
        value_RK = networks.critic.of_samples(mapped_R1H, task_RD, action_RKA[:, None])[:, 0]
        if deterministic:
            chosen_R = value_RK.argmax(-1)
        else:
            weights_RK = log_weights(value_RK, self.temperature()).exp()
            chosen_R = torch.multinomial(weights_RK, 1, generator=self.generator)[:, 0]
        action_RA = action_RKA[torch.arange(len(obs_RO), device=obs_RO.device), chosen_R]
        return action_RA, prior.log_prob(action_RA)


class IWPL(MultiTaskAlgorithm):
    """Importance weighted policy learning; see the module for the source."""

    config_class: ClassVar[type[IWPLConfig]] = IWPLConfig
    config: IWPLConfig
    policy: IWPLPolicy
    policy_class = IWPLPolicy
    has_actor, has_prior = False, True
    loss_names: ClassVar[tuple[str, ...]] = (
        "value_error", "target_value", "prior_loss", "prior_std", "alpha", "prior_kl", "kl_exceeded",
        "effective_samples",
    )  # fmt: skip

    def __init__(self, *, policy: IWPLPolicy, config: IWPLConfig, generator: torch.Generator) -> None:
        policy.temperature = Positive(config.initial_temperature).to(generator.device)
        super().__init__(policy=policy, config=config, generator=generator)
        self.temperature_optim = self._create_optimizer(policy.temperature, adam(config.dual_learning_rate))
        tasks = policy.tasks.count if config.bound_scope == "sum" else 1
        self.bound = config.kl_bound / tasks

    def losses(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of critic, behaviour prior and temperature; all losses are those before the steps."""
        config, networks, target = self.config, self.policy.networks, self.target.network
        alpha = self.policy.temperature().detach()
        with torch.no_grad():
            # a_k ~ pi0'(.|s) and Q_k = Q'(s, a_k) at all states of the chunk: those after a step are for its
            # target, those before it for the prior.
            proposal = target.prior(data.obs)
            action_BSKA = self.sample(proposal)
            mapped_BSH = target.critic.map_states(data.obs, data.task)
            value_BSK = target.critic.of_samples(mapped_BSH, data.task, action_BSKA)
            # Eq. 10: y = r + gamma V(s'), V the soft value of the weights of eq. 6.
            if config.soft_value == "consistent":
                soft_BS = consistent_soft_value(value_BSK[:, AFTER], alpha)
            else:
                log_prior_BSK = log_prob(at(proposal, AFTER), action_BSKA[:, AFTER])
                soft_BS = literal_soft_value(value_BSK[:, AFTER], alpha, log_prior_BSK)
            target_BS = data.reward + config.gamma * data.discount * soft_BS
        # Eq. 9: .5 (Q - y)^2.
        error_BS = networks.critic(data.obs[:, BEFORE], data.task, data.act) - target_BS
        critic_loss = 0.5 * valid_mean(error_BS.square(), data.valid)
        self.critic_optim.step(critic_loss)

        # Eq. 11: -sum_k q_k log pi0(a_k|s), with the same samples as the weights.
        value_BSK = value_BSK[:, BEFORE]
        logs_BSK = log_weights(value_BSK, alpha)
        prior = networks.prior(data.obs[:, BEFORE])
        log_prior_BSK = log_prob(prior, action_BSKA[:, BEFORE])
        prior_loss = valid_mean(-(logs_BSK.exp() * log_prior_BSK).sum(-1), data.valid)
        self.prior_optim.step(prior_loss)

        # Dual of eq. 8: alpha (eps + mean_s log mean_k exp(Q_k / alpha)), whose derivative is eps - mean KL.
        if config.temperature == "dual":
            temperature = self.policy.temperature()
            soft_BS = consistent_soft_value(value_BSK, temperature) / temperature
            self.temperature_optim.step(
                temperature_dual(temperature, valid_mean(soft_BS, data.valid), self.bound)
            )
        divergence_BS = kl_from_uniform(logs_BSK)
        return {
            "value_error": critic_loss,
            "target_value": valid_mean(target_BS, data.valid),
            "prior_loss": prior_loss,
            "prior_std": valid_mean(prior.log_std.exp().mean(-1), data.valid),
            "alpha": alpha,
            "prior_kl": valid_mean(divergence_BS, data.valid),
            "kl_exceeded": valid_mean((divergence_BS > self.bound).to(error_BS), data.valid),
            "effective_samples": valid_mean(effective_samples(logs_BSK), data.valid),
        }
