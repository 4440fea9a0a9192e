"""Task inference from transitions: Gaussian factors and their product."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.networks.perceptrons import mlp

#: Smallest variance of a factor, so that 1/variance does not overflow for one transition with a
#: very small variance (Rakelly et al. 2019, released code).
MIN_VARIANCE = 1e-7


class ProductOfGaussiansEncoder(nn.Module):
    """Feed-forward, permutation-invariant encoder of PEARL (Rakelly et al. 2019, eq. 2).

    Every transition gives one independent Gaussian factor of q(z|c); see `product_of_gaussians`.
    For the initial weights, see `mlp`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        latent: int,
        *,
        generator: torch.Generator,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.latent = latent
        self.network = mlp(
            inputs, hidden, 2 * latent, generator=generator, last_bound=3e-3, released=released
        )

    def forward(self, context_TBI: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the factor of each transition, both (..., B, Z)."""
        mean_TBZ, raw_TBZ = self.network(context_TBI).chunk(2, dim=-1)
        return mean_TBZ, F.softplus(raw_TBZ)


def transition_features(
    obs: NDArray[Any],
    act: NDArray[Any],
    reward: NDArray[Any],
    obs_next: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Encoder inputs (..., I) of transitions: observation, action, reward[, next observation].

    Rewards have shape (...), everything else (..., width).
    """
    columns = [obs, act, reward[..., None]]
    if obs_next is not None:
        columns.append(obs_next)
    return np.concatenate(columns, -1, dtype=np.float32)


def factor_sums(mean_TBZ: Tensor, variance_TBZ: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and precision-weighted mean of a product of Gaussians, both (T, Z).

    They are additive over disjoint sets of transitions, so a posterior can be updated during a trial
    without encoding old transitions again.
    """
    precision_TBZ = variance_TBZ.clamp(min=MIN_VARIANCE).reciprocal()
    return precision_TBZ.sum(-2), (mean_TBZ * precision_TBZ).sum(-2)


def product_of_gaussians(mean_TBZ: Tensor, variance_TBZ: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the normalised product over B: s2 = 1/sum(1/s2_i), m = s2 sum(m_i/s2_i).

    Args:
        mean_TBZ: factor means.
        variance_TBZ: factor variances (not standard deviations), clamped to at least 1e-7.

    Returns:
        Mean and variance, both (T, Z).
    """
    precision_TZ, weighted_TZ = factor_sums(mean_TBZ, variance_TBZ)
    variance_TZ = precision_TZ.reciprocal()
    return weighted_TZ * variance_TZ, variance_TZ


def kl_to_standard_normal(mean_TZ: Tensor, variance_TZ: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)), **summed** over tasks and latent dimensions: a scalar.

    PEARL sums instead of averaging, so the weight of the bottleneck depends on the meta-batch size.
    """
    return 0.5 * (variance_TZ + mean_TZ.square() - 1.0 - variance_TZ.log()).sum()
