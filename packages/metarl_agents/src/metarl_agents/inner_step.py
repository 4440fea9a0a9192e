"""Gradient steps on one task, differentiable with respect to where they start and how long they are.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), eq. 1; per-parameter step sizes of Li et al. 2017
(arXiv:1707.09835).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from metarl_agents.functional import Parameters

Loss = Callable[[Mapping[str, Tensor]], Tensor]


def inner_step(
    parameters: Mapping[str, Tensor],
    loss: Loss,
    step_size: float | Mapping[str, Tensor],
    *,
    adapted: Collection[str] | None = None,
    second_order: bool = True,
    max_norm: float | None = None,
) -> Parameters:
    """Theta' = theta - alpha grad L(theta).

    Args:
        parameters: theta by name.
        loss: L as a function of parameters.
        step_size: alpha, one number or a tensor for every adapted parameter.
        adapted: names of the parameters that move; all by default.
        second_order: whether theta' can be differentiated through the gradient.
        max_norm: bound on the gradient's norm over all adapted parameters.
    """
    names = [name for name in parameters if adapted is None or name in adapted]
    chosen = [parameters[name] for name in names]
    gradients = torch.autograd.grad(loss(parameters), chosen, create_graph=second_order)
    if max_norm is not None:
        norm = torch.stack([gradient.detach().norm() for gradient in gradients]).norm()
        factor = (max_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        gradients = tuple(gradient * factor for gradient in gradients)
    moved = dict(parameters)
    for name, parameter, gradient in zip(names, chosen, gradients, strict=True):
        alpha = step_size if isinstance(step_size, float) else step_size[name]
        moved[name] = parameter - alpha * gradient
    return moved
