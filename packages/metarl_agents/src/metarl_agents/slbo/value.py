"""A value network that is fitted to returns, with forward and backward passes written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metarl_agents.networks.optimisers import VectorSteps
from metarl_agents.networks.perceptrons import tanh_layer


class ValueNetwork(nn.Module):
    """Tanh perceptron with one output; rows of its initial weights have norm 1, biases are 0.

    All parameters lie in one vector, so that a step of Adam is one operation. Passes are
    written out, so that no graph has to be recorded.

    Args:
        inputs: input size.
        hidden: widths of the hidden layers.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], *, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (inputs, *hidden, 1)
        self.shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        parts = []
        for outputs, width in self.shapes:
            weight = torch.randn(outputs, width, generator=generator)
            weight /= weight.norm(dim=1, keepdim=True)
            parts += [weight.flatten(), torch.zeros(outputs)]
        self.flat = nn.Parameter(torch.cat(parts))

    def _views(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases as views of a flat vector."""
        weights, biases, place = [], [], 0
        for outputs, width in self.shapes:
            weights.append(flat[place : place + outputs * width].view(outputs, width))
            place += outputs * width
            biases.append(flat[place : place + outputs])
            place += outputs
        return weights, biases

    @torch.no_grad()
    def forward(self, input_MI: Tensor) -> Tensor:
        """Values (M,)."""
        weights, biases = self._views(self.flat)
        hidden = input_MI
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden = tanh_layer(hidden, weight, bias)
        return torch.addmm(biases[-1], hidden, weights[-1].T).squeeze(1)

    @torch.no_grad()
    def fit(
        self,
        adam: torch.optim.Optimizer,
        input_MI: Tensor,
        target_M: Tensor,
        *,
        epochs: int,
        batch_size: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Takes steps on the mean squared error over minibatches; returns its mean over the last pass.

        Args:
            adam: optimiser of `flat`.
            input_MI: inputs.
            target_M: targets.
            epochs: passes over the data, each in another order.
            batch_size: rows of a minibatch; the last one of a pass may have fewer.
            generator: source of the orders.
        """
        gradient = torch.zeros_like(self.flat)
        steps = VectorSteps(adam, self.flat)
        weights, biases = self._views(self.flat.detach())
        weight_slopes, bias_slopes = self._views(gradient)
        total, count = torch.zeros((), device=input_MI.device, dtype=input_MI.dtype), len(input_MI)
        for epoch in range(epochs):
            order = torch.randperm(count, generator=generator, device=input_MI.device)
            inputs = torch.split(input_MI[order], batch_size)
            targets = torch.split(target_M[order][:, None], batch_size)
            for input_BI, target_B1 in zip(inputs, targets, strict=True):
                layers = [input_BI]
                for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                    layers.append(tanh_layer(layers[-1], weight, bias))
                slope = torch.addmm(biases[-1], layers[-1], weights[-1].T).sub_(target_B1)
                if epoch == epochs - 1:
                    total += slope.square().sum()
                slope.mul_(2.0 / len(slope))
                for number in reversed(range(len(weights))):
                    torch.mm(slope.T, layers[number], out=weight_slopes[number])
                    torch.sum(slope, 0, out=bias_slopes[number])
                    if number:
                        slope = (slope @ weights[number]).mul_(layers[number].square_().neg_().add_(1.0))
                steps.step(gradient)
        steps.finish()
        return total / count
