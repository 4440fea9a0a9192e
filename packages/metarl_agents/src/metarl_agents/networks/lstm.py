"""An LSTM over the steps of trials, behind a perceptron.

Letters: B sequences, S steps, I input, W width of the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.networks.layer_norm import hidden_bound
from metarl_agents.networks.perceptrons import linear


class LSTMState(NamedTuple):
    """State of an LSTM.

    Attributes:
        hidden: (B, W), its output.
        cell: (B, W).
    """

    hidden: Tensor
    cell: Tensor


class Memory(nn.Module):
    """Layers with ELU, then an LSTM (Hochreiter and Schmidhuber 1997).

    Args:
        inputs: size I of an input.
        hidden: widths of the layers before the LSTM; none: it receives the input.
        width: size W of the state.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        sizes = (inputs, *hidden)
        self.layers = nn.ModuleList(
            linear(a, b, generator=generator, weight_bound=hidden_bound(b), bias=0.0)
            for a, b in pairwise(sizes)
        )
        self.cell = nn.LSTMCell(sizes[-1], width, device="meta").to_empty(device="cpu")
        bound = 1.0 / math.sqrt(width)
        with torch.no_grad():
            for parameter in self.cell.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def start(self, count: int) -> LSTMState:
        """The state before the first step of `count` sequences: zeros."""
        zeros_BW = self.cell.weight_hh.new_zeros(count, self.width)
        return LSTMState(zeros_BW, zeros_BW.clone())

    def step(self, inputs_BI: Tensor, state: LSTMState) -> LSTMState:
        """The state after one more step."""
        return LSTMState(*self.cell(self._prepared(inputs_BI), tuple(state)))

    def forward(self, inputs_BSI: Tensor, state: LSTMState) -> LSTMState:
        """The states (B, S, W) after each step."""
        prepared_BSI = self._prepared(inputs_BSI)
        found = []
        now = tuple(state)
        for prepared_BI in prepared_BSI.unbind(1):
            now = self.cell(prepared_BI, now)
            found.append(now)
        hidden, cell = zip(*found, strict=True)
        return LSTMState(torch.stack(hidden, 1), torch.stack(cell, 1))

    def after(self, inputs_BSI: Tensor, length_B: Tensor) -> LSTMState:
        """The states (B, W) after the first `length_B` steps of each sequence, from zeros.

        Args:
            inputs_BSI: inputs; those beyond a sequence's length have no influence.
            length_B: numbers of steps, from 0 to S.
        """
        start = self.start(len(inputs_BSI))
        if not inputs_BSI.shape[1]:
            return start
        found = self(inputs_BSI, start)
        place_B11 = (length_B - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.width)
        none_B1 = (length_B == 0)[:, None]
        return LSTMState(
            *(
                torch.where(none_B1, zero, each.gather(1, place_B11)[:, 0])
                for zero, each in zip(start, found, strict=True)
            )
        )

    def _prepared(self, inputs: Tensor) -> Tensor:
        """Inputs of the LSTM."""
        for layer in self.layers:
            inputs = F.elu(layer(inputs))
        return inputs


def selected(changed_B: Tensor, new: LSTMState, old: LSTMState) -> LSTMState:
    """The new state of the sequences of which something changed, and the old one of others."""
    return LSTMState(*(torch.where(changed_B[:, None], a, b) for a, b in zip(new, old, strict=True)))
