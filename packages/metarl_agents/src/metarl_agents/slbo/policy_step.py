"""Natural-gradient steps of a Gaussian perceptron whose log sigma is a vector, with products in closed form.

For such a policy, the Hessian of the mean KL divergence at the old parameters is the Gauss-Newton matrix: the
Jacobian of the means, weighted by 1/sigma^2, and 2 on the diagonal of log sigma. One forward and one backward
pass give a product with it, which takes half the time of differentiating twice.

The loss is that of SLBO's released code: the surrogate, and a bonus for the entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from metarl_agents.networks.functional import HALF_LOG_TWO_PI, Gaussian, GaussianMLP
from metarl_agents.networks.perceptrons import tanh_layer
from metarl_agents.trials.trust_region import (
    Product,
    StepResult,
    TrustRegion,
    flat,
    trust_region_step,
)

#: What SLBO's code passes to its trust-region step; a step may exceed the radius by half.
SLBO_REGION = TrustRegion(
    radius=0.01, iterations=10, damping=0.1, shrink=0.5, tries=10, slack=1.5, strictly_better=False
)
#: The released code's entropy integrates over actions in [-2, 2].
ENTROPY_LIMIT = 2.0


class GaussianPass:
    """A Gaussian perceptron and what a forward pass on M inputs has left for derivatives.

    Args:
        policy: the perceptron; tanh layers, log sigma a vector.
        input_MI: inputs.
    """

    def __init__(self, policy: GaussianMLP, input_MI: Tensor) -> None:
        self.weights = [policy.get_parameter(f"weight_{n}") for n in range(policy.layers)]
        self.biases = [policy.get_parameter(f"bias_{n}") for n in range(policy.layers)]
        self.log_std = policy.log_std
        self.layers = [input_MI]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            layer = tanh_layer if number < policy.layers - 1 else linear
            self.layers.append(layer(self.layers[-1], weight, bias))

    @cached_property
    def slopes(self) -> list[Tensor]:
        """Derivatives of the hidden layers with respect to their inputs; every product needs them."""
        return [1.0 - layer.square() for layer in self.layers[1:-1]]

    @property
    def distribution(self) -> Gaussian:
        """The distributions of the actions of all inputs."""
        return Gaussian(self.layers[-1], self.log_std)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters in the order of flat vectors: weight and bias of each layer, then log sigma."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [parameter for pair in pairs for parameter in pair] + [self.log_std]

    def pulled_back(self, mean_MA: Tensor, log_std_A: Tensor) -> Tensor:
        """Flat gradient of what has these derivatives with respect to the means and to log sigma."""
        slope, found = mean_MA, [log_std_A]
        for number in reversed(range(len(self.weights))):
            layer = self.layers[number]
            found += [slope.sum(0), slope.T @ layer]
            if number:
                slope = (slope @ self.weights[number]).mul_(self.slopes[number - 1])
        return flat(found[::-1])

    def pushed_forward(self, vector: Tensor) -> Tensor:
        """Change (M, A) of the means when the parameters change along a flat vector."""
        parts = self.split(vector)
        change: Tensor | None = None
        for number, weight in enumerate(self.weights):
            layer = self.layers[number]
            result = torch.addmm(parts[2 * number + 1], layer, parts[2 * number].T)
            if change is not None:
                result = torch.addmm(result, change, weight.T)
            last = number == len(self.weights) - 1
            change = result if last else result.mul_(self.slopes[number])
        assert change is not None
        return change

    def split(self, vector: Tensor) -> list[Tensor]:
        """A flat vector in the shapes of `parameters`."""
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = torch.split(vector, sizes)
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def curvature(self) -> Product:
        """Products with the Hessian of the mean KL divergence from this policy to a changed one."""
        weight_A = (-2.0 * self.log_std).exp() / len(self.layers[0])

        def product(vector: Tensor) -> Tensor:
            change_MA = self.pushed_forward(vector) * weight_A
            return self.pulled_back(change_MA, 2.0 * vector[-len(self.log_std) :])

        return product


@torch.no_grad()
def policy_step(
    policy: GaussianMLP,
    input_MI: Tensor,
    act_MA: Tensor,
    advantage_M: Tensor,
    *,
    entropy_cost: float,
    limited_entropy: bool,
    region: TrustRegion = SLBO_REGION,
    curvature_every: int = 1,
) -> StepResult:
    """Takes one trust-region step on the steps of a policy's own rollouts, or leaves it as it is.

    Args:
        policy: the policy that has acted.
        input_MI: its inputs.
        act_MA: actions as they were drawn.
        advantage_M: advantages, standardised here.
        entropy_cost: weight of the mean entropy.
        limited_entropy: whether the entropy is that of the released code, see `limited_entropy_of`.
        region: constants of the step.
        curvature_every: the curvature is estimated from every n-th step.
    """
    advantage_M = (advantage_M - advantage_M.mean()) / (advantage_M.std(correction=0) + 1e-8)
    old = GaussianPass(policy, input_MI)
    distribution = old.distribution
    log_old_M = distribution.log_prob(act_MA)
    old_log_std = old.log_std.clone()
    fixed = Gaussian(distribution.mean, old_log_std)

    def loss(found: Gaussian) -> Tensor:
        ratio_M = (found.log_prob(act_MA) - log_old_M).exp()
        entropy = limited_entropy_of(found)[0].mean() if limited_entropy else found.entropy()
        return -(ratio_M * advantage_M).mean() - entropy_cost * entropy

    def gradient() -> tuple[float, Tensor]:
        scaled_MA = (act_MA - fixed.mean) * (-old_log_std).exp()
        weighted_M1 = -advantage_M[:, None] / len(advantage_M)
        mean_MA = weighted_M1 * scaled_MA * (-old_log_std).exp()
        log_std_A = (weighted_M1 * (scaled_MA.square() - 1.0)).sum(0)
        if limited_entropy:
            _, of_mean_MA, of_log_std_MA = limited_entropy_of(fixed)
            mean_MA = mean_MA - entropy_cost * of_mean_MA / len(advantage_M)
            log_std_A = log_std_A - entropy_cost * of_log_std_MA.mean(0)
        else:
            log_std_A = log_std_A - entropy_cost
        return float(loss(fixed)), old.pulled_back(mean_MA, log_std_A)

    def evaluate() -> tuple[float, float]:
        new = GaussianPass(policy, input_MI).distribution
        return float(loss(new)), float(new.kl_from(fixed).mean())

    sample = old if curvature_every == 1 else GaussianPass(policy, input_MI[::curvature_every].contiguous())
    return trust_region_step(
        old.parameters, gradient=gradient, curvature=sample.curvature, evaluate=evaluate, region=region
    )


def limited_entropy_of(gaussian: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """The entropy of SLBO's released code, and its derivatives with respect to mean and log sigma.

    With x = (2 - mean) / (sigma sqrt 2) and y = (-2 - mean) / (sigma sqrt 2), it is, summed over dimensions,
    (log sigma + log(2 pi) / 2) (erf x - erf y) / 2 + (x exp(-x^2) - y exp(-y^2)) / 2. It is not the integral
    of -p log p over [-2, 2]: for mean 0 and sigma 1, it is 1.0685 and the integral 1.2464.

    Returns:
        Entropies (M,) and derivatives (M, A), (M, A).
    """
    scale = (-gaussian.log_std).exp() / math.sqrt(2.0)
    logs = gaussian.log_std + HALF_LOG_TWO_PI
    value = of_mean = of_log_std = torch.zeros_like(gaussian.mean)
    for sign in (1.0, -1.0):
        x = (sign * ENTROPY_LIMIT - gaussian.mean) * scale
        bell = (-x.square()).exp()
        slope = logs * bell / math.sqrt(math.pi) + 0.5 * bell * (1.0 - 2.0 * x.square())
        value = value + sign * 0.5 * (logs * x.erf() + x * bell)
        of_mean = of_mean - sign * slope * scale
        of_log_std = of_log_std + sign * (0.5 * x.erf() - slope * x)
    return value.sum(-1), of_mean, of_log_std


@torch.no_grad()
def generalised_advantages(
    reward_HN: Tensor,
    value_HN: Tensor,
    next_value_HN: Tensor,
    terminated_HN: Tensor,
    ended_HN: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantages (H, N) of rollouts, time first.

    After a time-out, the value of the state that followed is bootstrapped; the released code takes that of
    the next episode's first state.

    Args:
        reward_HN: rewards.
        value_HN: values of the states before the steps.
        next_value_HN: values of the states after them.
        terminated_HN: bool, whether a step ended in a terminal state, whose value is 0.
        ended_HN: bool, whether the next row is of another episode.
        gamma: discount.
        gae_lambda: lambda.
    """
    error_HN = reward_HN + gamma * torch.where(terminated_HN, 0.0, next_value_HN) - value_HN
    goes_on_HN = gamma * gae_lambda * (~ended_HN).to(error_HN)
    advantage_HN = error_HN.clone()
    for step in range(len(error_HN) - 2, -1, -1):
        advantage_HN[step] += goes_on_HN[step] * advantage_HN[step + 1]
    return advantage_HN


def fresh_policy(
    observations: int, hidden: Sequence[int], actions: int, generator: torch.Generator
) -> GaussianMLP:
    """A policy as SLBO starts every task: rows of norm 1, of .01 in the last layer, sigma 1."""
    return GaussianMLP(observations, hidden, actions, generator=generator, column_norms=(1.0, 0.01))
