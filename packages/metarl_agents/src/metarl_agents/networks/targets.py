"""Target networks, updated by Polyak averaging."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

TModule = TypeVar("TModule", bound=nn.Module)


class PolyakTarget(nn.Module, Generic[TModule]):
    """A copy of a network without gradients; `follow()` applies target += tau (source - target).

    Tianshou's own lagged networks loop over parameters in Python and call `eval()` recursively at each
    forward pass; this one is a single fused call over all parameters.
    """

    def __init__(self, source: TModule, tau: float) -> None:
        super().__init__()
        self.network: TModule = copy.deepcopy(source)
        self.network.requires_grad_(False)
        self.tau = tau
        # In a tuple, the source is not part of this module's parameters and state dict.
        self._source = (source,)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The copy's output."""
        result: torch.Tensor = self.network(*inputs)
        return result

    @torch.no_grad()
    def follow(self) -> None:
        """One Polyak step towards the source."""
        torch._foreach_lerp_(list(self.network.parameters()), list(self._source[0].parameters()), self.tau)
