"""Actors: networks from the inputs of a policy to its actions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metarl_agents.networks.distributions import split_output, tanh_gaussian_act, tanh_gaussian_draw
from metarl_agents.networks.perceptrons import mlp


class TanhGaussianActor(nn.Module):
    """Perceptron with a tanh-squashed diagonal Gaussian over actions in (-1, 1).

    The last layer's weights start at U(±1e-3), half of them for the mean and half for the log
    standard deviation (PEARL's released code; `released` as in `mlp`).
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        generator: torch.Generator,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.network = mlp(
            inputs, hidden, 2 * actions, generator=generator, last_bound=1e-3, released=released
        )

    def forward(self, inputs_BI: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the tanh, both (B, A)."""
        return split_output(self.network(inputs_BI))

    def act(self, inputs_BI: Tensor, generator: torch.Generator, *, deterministic: bool) -> Tensor:
        """Actions (B, A): a sample, or tanh of the mean."""
        mean_BA, log_std_BA = self(inputs_BI)
        return tanh_gaussian_act(mean_BA, log_std_BA, generator, deterministic=deterministic)

    def rsample(self, inputs_BI: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reparameterised action (B, A), its log-density (B,), mean and log std (B, A)."""
        mean_BA, log_std_BA = self(inputs_BI)
        return tanh_gaussian_draw(mean_BA, log_std_BA, generator)


class DeterministicActor(nn.Module):
    """Perceptron with a tanh, for actions in (-1, 1), with PyTorch's initial weights."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], actions: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.network = mlp(inputs, hidden, actions, generator=generator, last_bound=None, hidden_bias=None)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        """Actions (B, A)."""
        actions_BA: Tensor = self.network(inputs_BI)
        return actions_BA.tanh()
