"""The tanh-squashed diagonal Gaussian: sampling and exact log-densities."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
LOG_TWO = math.log(2.0)

#: Limits of log sigma (Haarnoja et al. 2018, and PEARL's released code).
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


def split_output(output_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and clamped log standard deviation, both (B, A), from an actor's P = 2 A outputs."""
    mean_BA, log_std_BA = output_BP.chunk(2, dim=-1)
    return mean_BA, log_std_BA.clamp(LOG_STD_MIN, LOG_STD_MAX)


def log_tanh_derivative(u: Tensor) -> Tensor:
    """log(d tanh(u) / du) = 2 (log 2 - u - softplus(-2u)), elementwise.

    The usual log(1 - tanh(u)^2 + 1e-6) does not fall below -13.8, for |u| above about 7; this form is
    exact up to rounding everywhere.
    """
    return 2.0 * (LOG_TWO - u - F.softplus(-2.0 * u))


def tanh_gaussian_rsample(mean_BA: Tensor, log_std_BA: Tensor, noise_BA: Tensor) -> tuple[Tensor, Tensor]:
    """Reparameterised sample a = tanh(mean + sigma * noise) and its log-density.

    Args:
        mean_BA: mean before the tanh.
        log_std_BA: log standard deviation before the tanh.
        noise_BA: standard normal noise.

    Returns:
        The actions (B, A) in (-1, 1) and log pi(a) (B,), summed over the action's dimensions. Both
        are differentiable with respect to mean and log standard deviation.
    """
    pre_tanh_BA = mean_BA + log_std_BA.exp() * noise_BA
    gaussian_BA = -0.5 * noise_BA.square() - log_std_BA - HALF_LOG_TWO_PI
    log_prob_B = (gaussian_BA - log_tanh_derivative(pre_tanh_BA)).sum(-1)
    return torch.tanh(pre_tanh_BA), log_prob_B


def tanh_gaussian_act(
    mean_BA: Tensor, log_std_BA: Tensor, generator: torch.Generator, *, deterministic: bool
) -> Tensor:
    """Actions (B, A): a sample, or tanh of the mean."""
    if deterministic:
        return torch.tanh(mean_BA)
    noise_BA = torch.randn(mean_BA.shape, generator=generator, device=mean_BA.device)
    return torch.tanh(mean_BA + log_std_BA.exp() * noise_BA)


def tanh_gaussian_draw(
    mean_BA: Tensor, log_std_BA: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reparameterised action (B, A), its log-density (B,), and mean and log std as given."""
    noise_BA = torch.randn(mean_BA.shape, generator=generator, device=mean_BA.device)
    action_BA, log_prob_B = tanh_gaussian_rsample(mean_BA, log_std_BA, noise_BA)
    return action_BA, log_prob_B, mean_BA, log_std_BA
