"""A natural-gradient step within a trust region, checked on all data before it is taken.

Schulman et al. 2015 (arXiv:1502.05477): conjugate gradient, then a step to the edge of the region,
shortened until the surrogate improves and the constraint holds. Constants are those of ProMP's released
code, but for the damping, which is rllab's; ProMP has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metarl_agents.common.config import OnPolicyConfig

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrustRegionConfig(OnPolicyConfig):
    """Configuration of agents that take a trust-region step.

    Attributes:
        trust_radius: largest mean KL divergence of a step.
        curvature_fraction: fraction of each task's steps from which the curvature is estimated. The
            step itself is accepted on all of them.
    """

    trust_radius: float = 0.01
    curvature_fraction: float = 0.1

    fractions: ClassVar[tuple[str, ...]] = (*OnPolicyConfig.fractions, "curvature_fraction")


@dataclass(frozen=True)
class TrustRegion:
    """Constants of the step.

    Attributes:
        radius: largest mean KL divergence delta.
        iterations: iterations of conjugate gradient.
        damping: added to the curvature.
        shrink: factor between step lengths tried.
        tries: step lengths tried.
        slack: factor by which the KL divergence of an accepted step may exceed the radius.
        strictly_better: whether the loss of an accepted step must be lower than before, not equal.
    """

    radius: float = 0.01
    iterations: int = 10
    damping: float = 1e-5
    shrink: float = 0.8
    tries: int = 15
    slack: float = 1.0
    strictly_better: bool = True


@dataclass(frozen=True)
class StepResult:
    """What became of a step.

    Attributes:
        accepted: whether parameters moved.
        loss_before: loss before.
        loss: loss at the parameters kept.
        kl: mean KL divergence at the parameters kept.
        length: fraction of the full step.
    """

    accepted: bool
    loss_before: float
    loss: float
    kl: float
    length: float


def conjugate_gradient(product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """X with A x = target, approximately, for a positive definite A given as a product."""
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    squared = residual @ residual
    for _ in range(iterations):
        if squared < tolerance:
            break
        image = product(direction)
        step = squared / (direction @ image)
        solution += step * direction
        residual -= step * image
        following = residual @ residual
        direction = residual + (following / squared) * direction
        squared = following
    return solution


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of the tensors in a row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def hessian_product(kl: Tensor, parameters: Sequence[Tensor]) -> Product:
    """V -> H v with H the Hessian of a KL divergence, by differentiating twice."""
    gradient = flat(torch.autograd.grad(kl, parameters, create_graph=True))

    def product(vector: Tensor) -> Tensor:
        return flat(torch.autograd.grad(gradient @ vector, parameters, retain_graph=True))

    return product


def trust_region_step(
    parameters: Sequence[nn.Parameter],
    *,
    gradient: Callable[[], tuple[float, Tensor]],
    curvature: Callable[[], Product],
    evaluate: Callable[[], tuple[float, float]],
    region: TrustRegion,
) -> StepResult:
    """Moves parameters by one step, or leaves them where no step is good.

    Args:
        parameters: what moves.
        gradient: loss to be lowered and its gradient, on all data.
        curvature: returns products with the Hessian of the mean KL divergence from the old policies; a
            sample of the data will do.
        evaluate: loss and mean KL divergence at the current parameters, on all data. No step is
            taken on which it has not decided.
        region: constants.
    """
    before, slope = gradient()
    if not torch.isfinite(slope).all():
        return StepResult(False, before, before, 0.0, 0.0)
    hessian = curvature()

    def product(vector: Tensor) -> Tensor:
        return hessian(vector) + region.damping * vector

    direction = conjugate_gradient(product, slope, region.iterations)
    length_squared = direction @ product(direction)
    scale = (2.0 * region.radius / length_squared.clamp(min=1e-12)).sqrt()
    origin = flat([p.detach() for p in parameters]).clone()
    length = 1.0
    for _ in range(region.tries):
        nn.utils.vector_to_parameters(origin - length * scale * direction, parameters)
        loss, kl = evaluate()
        good = loss < before if region.strictly_better else loss <= before
        if good and kl <= region.slack * region.radius:
            return StepResult(True, before, loss, kl, length)
        length *= region.shrink
    nn.utils.vector_to_parameters(origin, parameters)
    return StepResult(False, before, before, 0.0, 0.0)
