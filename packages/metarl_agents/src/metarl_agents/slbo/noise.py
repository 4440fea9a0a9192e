"""Exploration noise that is correlated in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OrnsteinUhlenbeck(nn.Module):
    """x <- x - theta x + sigma n with standard normal n, for N rollouts; it goes on from episode to episode.

    Landolfi et al.'s released code: theta .15, sigma .3, mean 0, never reset. Its stationary standard
    deviation is sigma / sqrt(1 - (1 - theta)^2), .569.

    Args:
        rollouts: number N of rollouts.
        actions: size A of an action.
        generator: source of the noise; its device is that of the noise.
        theta: share of x that is lost in a step.
        sigma: standard deviation of what is added in a step.
    """

    value: Tensor

    def __init__(
        self,
        rollouts: int,
        actions: int,
        generator: torch.Generator,
        theta: float = 0.15,
        sigma: float = 0.3,
    ) -> None:
        super().__init__()
        # Part of a checkpoint.
        self.register_buffer("value", torch.zeros(rollouts, actions, device=generator.device))
        self.generator, self.theta, self.sigma = generator, theta, sigma

    def forward(self) -> Tensor:
        """The noise (N, A) of the next step."""
        drawn = torch.randn(self.value.shape, generator=self.generator, device=self.value.device)
        self.value = (1.0 - self.theta) * self.value + self.sigma * drawn
        return self.value
