"""A perceptron that predicts the change of the state, learned from sequences of real steps.

Luo et al. 2019 (arXiv:1807.03858), as used by Landolfi et al. 2019 (arXiv:1907.04964) and its released code.
The predicted next state is s + mean + std * f(norm(s), clip(a)), with the running mean and standard deviation
of changes. Forward and backward passes are written out, so that no graph has to be recorded.

Letters: S steps of a sequence, B sequences, O observation, A action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl_agents.networks.perceptrons import linear
from metarl_agents.slbo.normaliser import Normaliser
from metarl_agents.slbo.transitions import Sequences

#: Predicted states stay within this many standard deviations of the mean (released code).
CLIP = 100.0
#: Standard deviation of the initial weights in the released code, a truncated normal distribution.
TINY = 1e-5
#: Added under the root of an error, so that its gradient is finite at 0.
SMALLEST = 1e-12


class Constants(NamedTuple):
    """The statistics that enter a prediction, in the type of the weights.

    Attributes:
        mean: mean (O,) of states.
        scale: what centred states are divided by (O,).
        change: mean (O,) of changes.
        spread: standard deviation (O,) of changes; 0 for dimensions that never change differently.
        target_scale: what centred changes are divided by (O,).
        varies: 1 for dimensions whose change varies, else 0 (O,).
        low: lowest state (O,).
        high: highest state (O,).
    """

    mean: Tensor
    scale: Tensor
    change: Tensor
    spread: Tensor
    target_scale: Tensor
    varies: Tensor
    low: Tensor
    high: Tensor


class Dynamics(nn.Module):
    """The learned dynamics with their normalisers.

    Args:
        observations: size O.
        actions: size A.
        hidden: widths of the hidden ReLU layers.
        generator: CPU generator of the initial weights.
        tiny: whether the initial weights are those of the released code, with which the first prediction is
            the mean change; otherwise they are PyTorch's.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        tiny: bool,
    ) -> None:
        super().__init__()
        self.states = Normaliser(observations)
        self.changes = Normaliser(observations)
        sizes = (observations + actions, *hidden, observations)
        weights, biases = [], []
        for width, outputs in pairwise(sizes):
            if tiny:
                weight, bias = torch.empty(outputs, width), torch.zeros(outputs)
                nn.init.trunc_normal_(weight, std=TINY, a=-2 * TINY, b=2 * TINY, generator=generator)
            else:
                bound = 1.0 / math.sqrt(width)
                layer = linear(width, outputs, generator=generator, weight_bound=bound, bias=None)
                weight, bias = layer.weight.detach(), layer.bias.detach()
            weights.append(nn.Parameter(weight))
            biases.append(nn.Parameter(bias))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    @torch.no_grad()
    def observe(self, obs_BO: Tensor, next_obs_BO: Tensor) -> None:
        """Updates the statistics with new real steps."""
        self.states.update(obs_BO)
        self.changes.update(next_obs_BO.to(torch.float64) - obs_BO.to(torch.float64))

    def constants(self) -> Constants:
        """The statistics as they are now."""
        like = self.weights[0]
        varies = self.changes.varies
        mean, scale = self.states.mean.to(like), self.states.scale.to(like)
        return Constants(
            mean,
            scale,
            self.changes.mean.to(like),
            torch.where(varies, self.changes.std, 0.0).to(like),
            self.changes.scale.to(like),
            varies.to(like),
            mean - CLIP * scale,
            mean + CLIP * scale,
        )

    def _layers(self, input_BI: Tensor) -> list[Tensor]:
        """Inputs of all layers, then the output f (B, O)."""
        values = [input_BI]
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            result = torch.addmm(bias, values[-1], weight.T)
            values.append(result if number == last else result.clamp_min_(0.0))
        return values

    @torch.no_grad()
    def predict(self, obs_BO: Tensor, act_BA: Tensor, constants: Constants | None = None) -> Tensor:
        """Predicted next states (B, O)."""
        c = constants or self.constants()
        output_BO = self._layers(inputs(obs_BO, act_BA, c))[-1]
        return following(obs_BO, output_BO, c)[0]

    @torch.no_grad()
    def error(self, obs_BO: Tensor, act_BA: Tensor, next_obs_BO: Tensor) -> Tensor:
        """Mean error of single steps; see `loss_and_gradient`."""
        c = self.constants()
        target_BO = (next_obs_BO - obs_BO - c.change) / c.target_scale
        error_BO = (self._layers(inputs(obs_BO, act_BA, c))[-1] - target_BO) * c.varies
        return (error_BO.square().mean(1) + SMALLEST).sqrt().mean()

    @torch.no_grad()
    def loss_and_gradient(self, data: Sequences, constants: Constants, decay: float = 0.0) -> Tensor:
        """Sets the gradients of all weights; returns the mean error over sequences and steps.

        The error of a step is the root mean square, over dimensions, of the normalised difference between the
        predicted and the recorded change. Each prediction continues from the last one; where the next row is
        of another episode, it restarts from the recorded state.

        Args:
            data: sequences of real steps.
            constants: the statistics.
            decay: weight of half the squared norm of weights and biases; it is part of the gradient, not of
                the value that is returned.
        """
        c, steps = constants, len(data.obs)
        target_SBO = (data.next_obs - data.obs - c.change) / c.target_scale
        goes_on_SB1 = (~data.ended)[..., None].to(target_SBO)
        share = 1.0 / (steps * data.obs.shape[1])
        current_BO, total = data.obs[0], torch.zeros((), device=target_SBO.device, dtype=target_SBO.dtype)
        layers, slopes, inside = [], [], []
        for step in range(steps):
            values = self._layers(inputs(current_BO, data.act[step], c))
            error_BO = (values[-1] - target_SBO[step]) * c.varies
            rms_B1 = (error_BO.square().mean(1, keepdim=True) + SMALLEST).sqrt_()
            total += rms_B1.sum() * share
            layers.append(values)
            slopes.append(error_BO * (share / rms_B1 / error_BO.shape[1]))
            if step + 1 < steps:
                predicted_BO, free_BO = following(current_BO, values[-1], c)
                inside.append(free_BO)
                recorded_BO = data.obs[step + 1]
                current_BO = torch.lerp(recorded_BO, predicted_BO, goes_on_SB1[step])
        self._backward(layers, slopes, inside, goes_on_SB1, c, decay)
        return total

    def _backward(
        self,
        layers: list[list[Tensor]],
        slopes: list[Tensor],
        inside: list[Tensor],
        goes_on_SB1: Tensor,
        c: Constants,
        decay: float,
    ) -> None:
        parameters = (*self.weights, *self.biases)
        for parameter in parameters:
            parameter.grad = parameter * decay
        observations = slopes[0].shape[1]
        later_BO: Tensor | None = None
        for step in reversed(range(len(layers))):
            slope = slopes[step]
            passed_BO: Tensor | None = None
            if later_BO is not None:
                # Of the next current state, through the prediction.
                passed_BO = later_BO * goes_on_SB1[step] * inside[step]
                slope = slope + passed_BO * c.spread
            for number in reversed(range(len(self.weights))):
                weight, bias = self.weights[number], self.biases[number]
                assert weight.grad is not None
                assert bias.grad is not None
                weight.grad.addmm_(slope.T, layers[step][number])
                bias.grad += slope.sum(0)
                if number:
                    slope = (slope @ weight) * (layers[step][number] > 0)
                elif step:
                    later_BO = (slope @ weight[:, :observations]) / c.scale
                    if passed_BO is not None:
                        later_BO = later_BO + passed_BO

    def folded(self) -> Folded:
        """The dynamics with both normalisers folded into the first and the last layer."""
        c = self.constants()
        observations = len(c.mean)
        first = self.weights[0].clone()
        first[:, :observations] /= c.scale
        weights = [first, *(weight.detach() for weight in self.weights[1:])]
        biases = [bias.detach() for bias in self.biases]
        biases[0] = biases[0] - first[:, :observations] @ c.mean
        weights[-1] = weights[-1] * c.spread[:, None]
        biases[-1] = biases[-1] * c.spread + c.change
        return Folded(
            tuple(weight.detach().T.contiguous() for weight in weights),
            tuple(bias.detach() for bias in biases),
            c.low,
            c.high,
        )


class Folded(NamedTuple):
    """Dynamics for many predictions with the same weights.

    Attributes:
        weights: of all layers (I, O).
        biases: of all layers.
        low: lowest state (O,).
        high: highest state (O,).
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    low: Tensor
    high: Tensor

    def __call__(self, obs_BO: Tensor, act_BA: Tensor) -> Tensor:
        """Predicted next states (B, O)."""
        hidden = torch.cat((obs_BO, act_BA.clamp(-1.0, 1.0)), 1)
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.addmm(bias, hidden, weight)
            if number < last:
                hidden.clamp_min_(0.0)
        return torch.minimum(torch.maximum(hidden.add_(obs_BO), self.low), self.high)


def inputs(obs_BO: Tensor, act_BA: Tensor, c: Constants) -> Tensor:
    """Inputs (B, O + A) of the perceptron."""
    return torch.cat(((obs_BO - c.mean) / c.scale, act_BA.clamp(-1.0, 1.0)), 1)


def following(obs_BO: Tensor, output_BO: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Next states (B, O), and 1 where they are within their limits, else 0 (B, O)."""
    free_BO = obs_BO + c.change + c.spread * output_BO
    bounded_BO = torch.minimum(torch.maximum(free_BO, c.low), c.high)
    return bounded_BO, (bounded_BO == free_BO).to(free_BO)


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], norm: float) -> None:
    """Scales all gradients down so that their common norm is at most `norm`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found = torch.stack(torch._foreach_norm(gradients)).norm()
    torch._foreach_mul_(gradients, norm / found.clamp_min(norm))
