"""Gaussian policies as functions of their parameters, so that gradient steps can be differentiated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Parameters = dict[str, Tensor]

#: Floor of log sigma (ProMP's released code: log 1e-6).
MIN_LOG_STD = math.log(1e-6)
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Gaussian(NamedTuple):
    """Diagonal Gaussians over actions.

    Attributes:
        mean: means (..., A).
        log_std: log standard deviations, of a shape that broadcasts to the means'.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density (...) of actions (..., A)."""
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled.square() - self.log_std - HALF_LOG_TWO_PI).sum(-1)

    def kl_from(self, old: Gaussian) -> Tensor:
        """KL(old || self), shape (...), exact."""
        variance, old_variance = (2 * self.log_std).exp(), (2 * old.log_std).exp()
        squares = old_variance + (old.mean - self.mean).square()
        return (self.log_std - old.log_std + squares / (2 * variance) - 0.5).sum(-1)

    def detach(self) -> Gaussian:
        """The same without gradient."""
        return Gaussian(self.mean.detach(), self.log_std.detach())


class GaussianMLP(nn.Module):
    """Tanh perceptron with a Gaussian head whose log sigma is a free vector or an output.

    Args:
        inputs: input width.
        hidden: hidden widths.
        actions: width A of an action.
        generator: CPU generator of the initial weights, Xavier-uniform as in ProMP.
        state_std: whether log sigma depends on the input (TESP) or is one vector (MAML, ProMP).
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        generator: torch.Generator,
        state_std: bool = False,
    ) -> None:
        super().__init__()
        self.actions = actions
        self.state_std = state_std
        self.layers = len(hidden) + 1
        width = inputs
        for number, size in enumerate((*hidden, actions * (1 + state_std))):
            bound = math.sqrt(6.0 / (width + size))
            weight = torch.empty(size, width).uniform_(-bound, bound, generator=generator)
            self.register_parameter(f"weight_{number}", nn.Parameter(weight))
            self.register_parameter(f"bias_{number}", nn.Parameter(torch.zeros(size)))
            width = size
        if not state_std:
            self.log_std = nn.Parameter(torch.zeros(actions))

    def parameter_dict(self) -> Parameters:
        """The module's own parameters by name."""
        return dict(self.named_parameters())

    def forward(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Gaussian:
        """Action distributions of inputs (M, I), or (T, M, I) where parameters have a leading T.

        Args:
            inputs: the inputs.
            parameters: parameters in place of the module's own.
        """
        chosen = dict(self.named_parameters()) if parameters is None else parameters
        batched = chosen["weight_0"].dim() == 3
        hidden = inputs
        for number in range(self.layers):
            weight, bias = chosen[f"weight_{number}"], chosen[f"bias_{number}"]
            if batched:
                hidden = torch.baddbmm(bias[:, None], hidden, weight.mT)
            else:
                hidden = nn.functional.linear(hidden, weight, bias)
            if number < self.layers - 1:
                hidden = hidden.tanh()
        if self.state_std:
            mean, log_std = hidden.chunk(2, -1)
        else:
            mean, log_std = hidden, chosen["log_std"]
            log_std = log_std[:, None] if batched else log_std
        return Gaussian(mean, log_std.clamp(min=MIN_LOG_STD))


def stacked(parameters: Sequence[Mapping[str, Tensor]]) -> Parameters:
    """Parameters of several tasks with a leading task axis."""
    return {name: torch.stack([task[name] for task in parameters]) for name in parameters[0]}
