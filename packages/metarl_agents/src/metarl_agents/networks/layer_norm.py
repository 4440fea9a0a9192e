"""Perceptrons with a normalised first layer: Gaussian policies, and values of many actions of a state.

The architecture of the public agents of the group of Galashov et al. 2020 (arXiv:2009.04875): linear,
LayerNorm, tanh, then linear layers with ELU. The paper itself only says that two hidden layers have
ELU and that inputs are normalised.

Letters: B chunks, S states of a chunk, K actions of a state, O observation, D task input, A action, H units
of the first layer, F features (units of the last hidden layer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.perceptrons import linear

#: Rows of a block of state-action pairs on a CPU: its activations, about a megabyte, stay in a core's cache.
BLOCK_ROWS = 640
#: The same on an accelerator, which small blocks would leave idle.
ACCELERATOR_ROWS = 100_000


def hidden_bound(width: int) -> float:
    """Bound of uniform initial weights, variance scaling by fan-out with factor 1/3."""
    return 1.0 / math.sqrt(width)


def near_zero(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose initial outputs are near zero: variance scaling by fan-in with factor 1e-4."""
    layer = linear(inputs, outputs, generator=generator, weight_bound=1.0, bias=0.0)
    with torch.no_grad():
        layer.weight.normal_(0.0, 0.01 / math.sqrt(inputs), generator=generator)
    return layer


class NormalisedLayer(nn.Module):
    """tanh(LayerNorm(sum of linear maps of the parts of an input)).

    The maps of the parts are separate, so that a part that is the same for many rows, such as the state of
    many actions, is mapped only once. Initial biases are drawn like the weights: with zero biases, the
    normalisation would only keep the direction of the input (a 2-D position loses its distance from the
    origin).

    Args:
        parts: sizes of the parts; a part of size 0 is never given.
        width: units H.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, parts: Sequence[int], width: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = hidden_bound(width)
        self.maps = nn.ParameterList(
            torch.empty(width, size).uniform_(-bound, bound, generator=generator) for size in parts
        )
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound, generator=generator))
        self.norm = nn.LayerNorm(width)

    def map(self, number: int, inputs: Tensor) -> Tensor:
        """The linear map of one part (..., H); the first part's includes the bias."""
        return F.linear(inputs, self.maps[number], self.bias if number == 0 else None)

    def forward(self, mapped: Tensor) -> Tensor:
        """Activations (..., H) of the sum of the maps of all parts."""
        activations: Tensor = torch.tanh(self.norm(mapped))
        return activations


class Torso(nn.Module):
    """A `NormalisedLayer` and further layers with ELU.

    Args:
        parts: sizes of the parts of the input.
        hidden: widths of the layers.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, parts: Sequence[int], hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.first = NormalisedLayer(parts, hidden[0], generator)
        self.layers = nn.ModuleList(
            linear(a, b, generator=generator, weight_bound=hidden_bound(b), bias=0.0)
            for a, b in pairwise(hidden)
        )

    def forward(self, mapped: Tensor) -> Tensor:
        """Features (..., F) of the sum of the maps of all parts."""
        hidden: Tensor = self.first(mapped)
        for layer in self.layers:
            hidden = F.elu(layer(hidden))
        return hidden


class GaussianPolicy(nn.Module):
    """Diagonal Gaussian over actions, with a mean in (-1, 1) and a bounded standard deviation.

    Actions are not squashed; the environment clips them. The standard deviation is
    `low + (high - low) sigmoid(x)` and starts at `initial`. Without an upper bound it was measured to run
    away, because a critic that clips actions does not depend on large ones.

    Args:
        observations: size O of an observation.
        task_inputs: size D of the task's input; 0 for a policy that does not see the task.
        hidden: widths of the hidden layers.
        actions: size A of an action.
        std: lowest, initial and highest standard deviation.
        generator: CPU generator of the initial weights.
    """

    def __init__(
        self,
        observations: int,
        task_inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        std: tuple[float, float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        parts = (observations, task_inputs) if task_inputs else (observations,)
        self.torso = Torso(parts, hidden, generator)
        self.mean = near_zero(hidden[-1], actions, generator)
        self.spread = near_zero(hidden[-1], actions, generator)
        self.low, initial, self.high = std
        share = (initial - self.low) / (self.high - self.low)
        self.offset = math.log(share / (1.0 - share))

    def forward(self, obs: Tensor, task: Tensor | None = None) -> Gaussian:
        """Distributions (..., A) for observations (..., O) and, if it sees them, task inputs.

        The leading axes of the task inputs broadcast to those of the observations.
        """
        mapped = self.torso.first.map(0, obs)
        if task is not None:
            mapped = mapped + self.torso.first.map(1, task)
        features = self.torso(mapped)
        std = self.low + (self.high - self.low) * torch.sigmoid(self.spread(features) + self.offset)
        return Gaussian(torch.tanh(self.mean(features)), std.log())


class TaskWeights(nn.Module):
    """Weights w_i of the features of a shared critic: a table, or a function of the task's description.

    Args:
        task_inputs: size D of the task's input.
        features: size F of the weights.
        described: whether the input is a description of the task instead of its one-hot id.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, task_inputs: int, features: int, described: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.network: nn.Module
        if described:
            # Two layers of 100 with ELU: the width is a decision, the paper gives none.
            first = linear(task_inputs, 100, generator=generator, weight_bound=hidden_bound(100), bias=None)
            second = linear(100, 100, generator=generator, weight_bound=hidden_bound(100), bias=0.0)
            last = linear(100, features, generator=generator, weight_bound=hidden_bound(features), bias=0.0)
            self.network = nn.Sequential(first, nn.ELU(), second, nn.ELU(), last)
        else:
            # A product with a one-hot vector selects a row of the table; w ~ N(0, I/F), eq. 12 and below.
            table = nn.Linear(task_inputs, features, bias=False, device="meta").to_empty(device="cpu")
            with torch.no_grad():
                table.weight.normal_(0.0, 1.0 / math.sqrt(features), generator=generator)
            self.network = table

    def forward(self, task_BD: Tensor) -> Tensor:
        """Weights (B, F)."""
        weights_BF: Tensor = self.network(task_BD)
        return weights_BF


class ActionValue(nn.Module):
    """Q_i(s, a) of many tasks i: a network that sees the task, or psi(s, a) . w_i with shared features psi.

    Actions are clipped to [-1, 1] as the environment does, so that values are never extrapolated.

    Args:
        observations: size O of an observation.
        task_inputs: size D of the task's input.
        actions: size A of an action.
        hidden: widths of the hidden layers.
        shared: whether the features are shared and the task only selects their weights (eq. 12).
        described: see `TaskWeights`.
        generator: CPU generator of the initial weights.
    """

    def __init__(
        self,
        observations: int,
        task_inputs: int,
        actions: int,
        hidden: Sequence[int],
        *,
        shared: bool,
        described: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shared = shared
        parts = (observations, actions) if shared else (observations, actions, task_inputs)
        self.torso = Torso(parts, hidden, generator)
        self.output: TaskWeights | nn.Linear
        if shared:
            self.output = TaskWeights(task_inputs, hidden[-1], described, generator)
        else:
            self.output = near_zero(hidden[-1], 1, generator)

    def forward(self, obs_BSO: Tensor, task_BD: Tensor, act_BSA: Tensor) -> Tensor:
        """Values (B, S) of one action of each state, with gradients."""
        mapped_BSH = self.map_states(obs_BSO, task_BD) + self.torso.first.map(1, act_BSA.clamp(-1.0, 1.0))
        features_BSF = self.torso(mapped_BSH)
        values_BS1: Tensor
        if isinstance(self.output, TaskWeights):
            values_BS1 = features_BSF @ self.output(task_BD)[:, :, None]
        else:
            values_BS1 = self.output(features_BSF)
        return values_BS1.squeeze(-1)

    def map_states(self, obs_BSO: Tensor, task_BD: Tensor) -> Tensor:
        """The part (B, S, H) of the first layer that does not depend on the action."""
        mapped_BSH = self.torso.first.map(0, obs_BSO)
        if not self.shared:
            mapped_BSH = mapped_BSH + self.torso.first.map(2, task_BD)[:, None]
        return mapped_BSH

    def _fused(self, task_BD: Tensor) -> Callable[[slice, Tensor, Tensor], Tensor]:
        """The network as a function of a block of chunks, their mapped states and their actions.

        tanh(x) = 2 sigmoid(2x) - 1: a sigmoid takes a third of the time of a tanh on a CPU, and the factors
        and the shift are part of the layers before and after it.
        """
        first = self.torso.first
        layers = [cast(nn.Linear, layer) for layer in self.torso.layers]
        gain_H, shift_H = 2.0 * first.norm.weight, 2.0 * first.norm.bias
        weights: list[Tensor] = [layer.weight for layer in layers]
        biases: list[Tensor] = [layer.bias for layer in layers]
        if isinstance(self.output, TaskWeights):
            output_BF = self.output(task_BD)
            constant_B1 = output_BF.new_zeros(len(task_BD), 1)
        else:
            output_BF = self.output.weight.expand(len(task_BD), -1)
            constant_B1 = self.output.bias.expand(len(task_BD), 1)
        if layers:
            biases[0] = biases[0] - weights[0].sum(1)
            weights[0] = 2.0 * weights[0]
        else:
            constant_B1 = constant_B1 - output_BF.sum(1, keepdim=True)
            output_BF = 2.0 * output_BF
        shape, eps = first.norm.normalized_shape, first.norm.eps

        def values(block: slice, mapped_CSH: Tensor, act_CSKA: Tensor) -> Tensor:
            chunks, states, samples, _ = act_CSKA.shape
            hidden = F.linear(act_CSKA, first.maps[1])
            # In place, because the gradient of a sum needs neither of its terms; likewise below.
            hidden += mapped_CSH[:, :, None]
            hidden = F.layer_norm(hidden.flatten(0, 2), shape, gain_H, shift_H, eps).sigmoid_()
            for weight, bias in zip(weights, biases, strict=True):
                hidden = F.elu_(F.linear(hidden, weight, bias))
            values_CP1: Tensor = hidden.view(chunks, states * samples, -1) @ output_BF[block, :, None]
            values_CP1 += constant_B1[block, :, None]
            return values_CP1.view(chunks, states, samples)

        return values

    @torch.no_grad()
    def of_samples(self, mapped_BSH: Tensor, task_BD: Tensor, act_BSKA: Tensor) -> Tensor:
        """Values (B, S, K) of K actions of each state, without gradients, block by block.

        Args:
            mapped_BSH: what `map_states` returned.
            task_BD: task inputs.
            act_BSKA: actions; clipped here.
        """
        values = self._fused(task_BD)
        result_BSK = mapped_BSH.new_empty(act_BSKA.shape[:-1])
        for block in blocks(act_BSKA):
            result_BSK[block] = values(block, mapped_BSH[block], act_BSKA[block].clamp(-1.0, 1.0))
        return result_BSK

    def slopes_of_samples(
        self, mapped_BSH: Tensor, task_BD: Tensor, act_BSKA: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values (B, S, K) as in `of_samples`, and their derivatives (B, S, K, A) in the actions.

        The weights need no gradient, so only one block's activations exist at a time.
        """
        with torch.no_grad():
            values = self._fused(task_BD)
        result_BSK = mapped_BSH.new_empty(act_BSKA.shape[:-1])
        slopes_BSKA = torch.empty_like(act_BSKA)
        for block in blocks(act_BSKA):
            act_CSKA = act_BSKA[block].detach().requires_grad_()
            values_CSK = values(block, mapped_BSH[block], act_CSKA.clamp(-1.0, 1.0))
            (slopes_BSKA[block],) = torch.autograd.grad(values_CSK.sum(), act_CSKA)
            result_BSK[block] = values_CSK.detach()
        return result_BSK, slopes_BSKA


def blocks(act_BSKA: Tensor) -> Iterator[slice]:
    """Consecutive chunks that make up blocks of state-action pairs."""
    chunks, states, samples, _ = act_BSKA.shape
    rows = BLOCK_ROWS if act_BSKA.device.type == "cpu" else ACCELERATOR_ROWS
    size = max(1, rows // (states * samples))
    for start in range(0, chunks, size):
        yield slice(start, min(start + size, chunks))
