"""Targets of values and weights of sampled actions, as functions of tensors.

Retrace is by Munos et al. 2016 (arXiv:1606.02647). The importance-weighted values are those of Galashov
et al. 2020 (arXiv:2009.04875, eqs. 6 to 10); the dual of the temperature is that of REPS and MPO
(Abdolmaleki et al. 2018, arXiv:1806.06920).

Letters: B chunks, S steps, K action samples of a state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

#: Added to a softplus that must be positive (MPO's public implementation).
SMALLEST = 1e-8


class Retrace(NamedTuple):
    """Retrace's targets of a batch of chunks.

    Attributes:
        target: targets (B, S); 0 at padded steps.
        trace: coefficients c (B, S); 0 at padded steps.
    """

    target: Tensor
    trace: Tensor


def retrace(
    reward_BS: Tensor,
    value_BS: Tensor,
    next_value_BS: Tensor,
    discount_BS: Tensor,
    log_ratio_BS: Tensor,
    valid_BS: Tensor,
    decay: float,
) -> Retrace:
    """Off-policy returns: Q_t + delta_t + gamma_t c_{t+1} (return_{t+1} - Q_{t+1}), computed backwards.

    The correction ends with the chunk: from its last step, the target is r + gamma V'.

    Args:
        reward_BS: rewards.
        value_BS: Q(s_t, a_t) of the target critic.
        next_value_BS: V'(s_{t+1}), the expected value of the target policy's actions.
        discount_BS: gamma, and 0 where the episode ends in a terminal state.
        log_ratio_BS: log pi(a_t|s_t) - log mu(a_t|s_t) of the target and the acting policy.
        valid_BS: false at padded steps, which come last.
        decay: lambda.
    """
    # min(1, exp(x)) without an overflow.
    # torch.where, here and below, because a product with zero would keep a value that is not finite.
    trace_BS = torch.where(valid_BS, decay * log_ratio_BS.clamp(max=0.0).exp(), 0.0)
    delta_BS = reward_BS + discount_BS * next_value_BS - value_BS
    correction_B = torch.zeros_like(reward_BS[:, 0])
    coefficient_B = torch.zeros_like(correction_B)
    corrections = []
    for step in reversed(range(reward_BS.shape[1])):
        correction_B = delta_BS[:, step] + discount_BS[:, step] * coefficient_B * correction_B
        correction_B = torch.where(valid_BS[:, step], correction_B, 0.0)
        coefficient_B = trace_BS[:, step]
        corrections.append(correction_B)
    corrections_BS = torch.stack(corrections[::-1], 1)
    return Retrace(torch.where(valid_BS, value_BS + corrections_BS, 0.0), trace_BS)


def valid_mean(values_BS: Tensor, valid_BS: Tensor) -> Tensor:
    """Mean over the steps that are not padded; the values of padded steps have no influence."""
    return torch.where(valid_BS, values_BS, 0.0).sum() / valid_BS.sum()


def log_weights(value_K: Tensor, temperature: Tensor | float) -> Tensor:
    """Log of eq. 6: log q(a_k|s) = Q_k / alpha - logsumexp(Q / alpha), over the last axis."""
    return (value_K / temperature).log_softmax(-1)


def consistent_soft_value(value_K: Tensor, temperature: Tensor | float) -> Tensor:
    """Soft value alpha log mean_k exp(Q_k / alpha), over the last axis.

    It equals sum_k q_k (Q_k - alpha log(K q_k)): q is compared with the uniform distribution over the
    samples, which are draws from the prior. It converges to the soft value of eq. 3 for many samples.
    """
    return temperature * ((value_K / temperature).logsumexp(-1) - math.log(value_K.shape[-1]))


def literal_soft_value(value_K: Tensor, temperature: Tensor | float, log_prior_K: Tensor) -> Tensor:
    """Eq. 10 as printed: sum_k q_k (Q_k - alpha log(q_k / pi0(a_k))), over the last axis.

    A probability of a sample is divided by a density, so the value depends on the units of the actions.
    """
    logs_K = log_weights(value_K, temperature)
    return (logs_K.exp() * (value_K - temperature * (logs_K - log_prior_K))).sum(-1)


def kl_from_uniform(logs_K: Tensor) -> Tensor:
    """KL divergence of weights over K samples from equal weights, at most log K; over the last axis."""
    return (logs_K.exp() * logs_K).sum(-1) + math.log(logs_K.shape[-1])


def effective_samples(logs_K: Tensor) -> Tensor:
    """Effective number of samples, 1 / sum q^2, between 1 and K; over the last axis."""
    return (-(2.0 * logs_K).logsumexp(-1)).exp()


def temperature_dual(temperature: Tensor, mean_soft: Tensor, bound: float) -> Tensor:
    """The dual of a bound on the mean KL divergence from the prior, alpha (eps + mean(V) / alpha).

    Its derivative in alpha is `bound` minus the mean KL divergence of the weights.

    Args:
        temperature: alpha, with its gradient.
        mean_soft: mean over states of log mean_k exp(Q_k / alpha), with its gradient in alpha.
        bound: eps in nats.
    """
    return temperature * (bound + mean_soft)


class Positive(nn.Module):
    """Positive numbers, stored as the inputs of a softplus: a temperature, or the multipliers of a bound.

    Args:
        initial: their first value.
        shape: their shape.
        lowest: lower limit of the inputs of the softplus, which `limit` applies; None for none.
    """

    def __init__(self, initial: float, shape: tuple[int, ...] = (), lowest: float | None = None) -> None:
        super().__init__()
        start = initial + math.log(-math.expm1(-initial))  # the inverse of softplus, exact for small values
        self.raw = nn.Parameter(torch.full(shape, start))
        self.lowest = lowest

    def forward(self) -> Tensor:
        """The values."""
        return softplus(self.raw) + SMALLEST

    @torch.no_grad()
    def limit(self) -> None:
        """Moves inputs below the lower limit to it, after a step of an optimiser."""
        if self.lowest is not None:
            self.raw.clamp_(min=self.lowest)
