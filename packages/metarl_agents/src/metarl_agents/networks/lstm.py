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
        self.lstm = nn.LSTM(sizes[-1], width, batch_first=True, device="meta").to_empty(device="cpu")
        bound = 1.0 / math.sqrt(width)
        with torch.no_grad():
            for parameter in self.lstm.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def start(self, count: int) -> LSTMState:
        """The state before the first step of `count` sequences: zeros."""
        weight: Tensor = self.lstm.weight_hh_l0  # type: ignore[assignment]
        zeros_BW = weight.new_zeros(count, self.width)
        return LSTMState(zeros_BW, zeros_BW.clone())

    def step(self, inputs_BI: Tensor, state: LSTMState) -> LSTMState:
        """The state after one more step."""
        return self._step(self._prepared(inputs_BI), state)

    def forward(self, inputs_BSI: Tensor, state: LSTMState) -> Tensor:
        """Outputs (B, S, W) after each step."""
        hidden_BSW, _ = self.lstm(self._prepared(inputs_BSI), (state.hidden[None], state.cell[None]))
        return hidden_BSW  # type: ignore[no-any-return]

    @torch.no_grad()
    def states(self, inputs_BSI: Tensor, state: LSTMState) -> LSTMState:
        """The states (B, S, W) after each step, without gradients."""
        found = []
        for prepared_BI in self._prepared(inputs_BSI).unbind(1):
            state = self._step(prepared_BI, state)
            found.append(state)
        return LSTMState(*(torch.stack(parts, 1) for parts in zip(*found, strict=True)))

    def output_after(self, inputs_BSI: Tensor, length_B: Tensor) -> Tensor:
        """Outputs (B, W) after the first `length_B` steps of each sequence; zeros for none.

        Args:
            inputs_BSI: inputs; those beyond a sequence's length have no influence.
            length_B: numbers of steps, from 0 to S.
        """
        start = self.start(len(inputs_BSI))
        if not inputs_BSI.shape[1]:
            return start.hidden
        return _after(self(inputs_BSI, start), length_B)

    def state_after(self, inputs_BSI: Tensor, length_B: Tensor) -> LSTMState:
        """The states (B, W) after the first `length_B` steps, without gradients; see `output_after`."""
        start = self.start(len(inputs_BSI))
        if not inputs_BSI.shape[1]:
            return start
        return LSTMState(*(_after(part, length_B) for part in self.states(inputs_BSI, start)))

    def _step(self, prepared_BI: Tensor, state: LSTMState) -> LSTMState:
        _, (hidden, cell) = self.lstm(prepared_BI[:, None], (state.hidden[None], state.cell[None]))
        return LSTMState(hidden[0], cell[0])

    def _prepared(self, inputs: Tensor) -> Tensor:
        """Inputs of the LSTM."""
        for layer in self.layers:
            inputs = F.elu(layer(inputs))
        return inputs


def selected(changed_B: Tensor, new: LSTMState, old: LSTMState) -> LSTMState:
    """The new state of the sequences of which something changed, and the old one of others."""
    return LSTMState(*(torch.where(changed_B[:, None], a, b) for a, b in zip(new, old, strict=True)))


def _after(found_BSW: Tensor, length_B: Tensor) -> Tensor:
    """What was found (B, W) after the first `length_B` steps; zeros for none."""
    place_B11 = (length_B - 1).clamp(min=0)[:, None, None].expand(-1, 1, found_BSW.shape[-1])
    return torch.where((length_B == 0)[:, None], 0.0, found_BSW.gather(1, place_B11)[:, 0])
