"""What the agents that learn by gradients through gradients share: samples, losses, adaptation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl_agents.functional import Gaussian, GaussianMLP, Parameters
from metarl_agents.inner_step import Loss, inner_step
from metarl_agents.on_policy import TaskSample


class PolicySample(NamedTuple):
    """Steps of one task with the policy that took them.

    Attributes:
        steps: observations, actions, advantages.
        old: the action distributions when the steps were taken, without gradient.
        old_log_prob: log-density of the actions then (M,).
    """

    steps: TaskSample
    old: Gaussian
    old_log_prob: Tensor


def with_policy(
    policy: GaussianMLP, parameters: Mapping[str, Tensor] | None, steps: TaskSample
) -> PolicySample:
    """The steps with the distributions of the policy that took them."""
    with torch.no_grad():
        old = policy(steps.obs, parameters).detach()
        return PolicySample(steps, old, old.log_prob(steps.act))


def likelihood_loss(policy: GaussianMLP, sample: PolicySample) -> Loss:
    """L(theta) = -mean(log pi_theta(a|s) A), the policy gradient of MAML's inner step."""

    def loss(parameters: Mapping[str, Tensor]) -> Tensor:
        log_prob: Tensor = policy(sample.steps.obs, parameters).log_prob(sample.steps.act)
        return -(log_prob * sample.steps.advantage).mean()

    return loss


def ratio_loss(policy: GaussianMLP, sample: PolicySample) -> Loss:
    """L(theta) = -mean(pi_theta / pi_old A): the same gradient at pi_old, and the right second one.

    Rothfuss et al. 2019 (arXiv:1810.06784), section 5: differentiating the likelihood loss twice
    leaves out that theta also decides which steps are taken.
    """

    def loss(parameters: Mapping[str, Tensor]) -> Tensor:
        log_prob: Tensor = policy(sample.steps.obs, parameters).log_prob(sample.steps.act)
        return -((log_prob - sample.old_log_prob).exp() * sample.steps.advantage).mean()

    return loss


def clipped_loss(policy: GaussianMLP, sample: PolicySample, clip: float) -> Loss:
    """PPO's surrogate: -mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A))."""

    def loss(parameters: Mapping[str, Tensor]) -> Tensor:
        log_prob: Tensor = policy(sample.steps.obs, parameters).log_prob(sample.steps.act)
        ratio = (log_prob - sample.old_log_prob).exp()
        advantage = sample.steps.advantage
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()

    return loss


def mean_kl(policy: GaussianMLP, sample: PolicySample, parameters: Mapping[str, Tensor] | None) -> Tensor:
    """Mean KL(pi_old || pi) over the sample's states."""
    new: Gaussian = policy(sample.steps.obs, parameters)
    return new.kl_from(sample.old).mean()


def adapt(
    policy: GaussianMLP,
    samples: Sequence[PolicySample],
    step_size: float | Mapping[str, Tensor],
    *,
    ratio: bool,
    second_order: bool,
    adapted: Collection[str] | None = None,
) -> Parameters:
    """Parameters after one inner step on each of a task's samples, from the policy's own.

    Args:
        policy: the policy.
        samples: the task's data, one entry per inner step.
        step_size: alpha.
        ratio: whether the inner loss is the ratio's, else the likelihood's.
        second_order: whether the result can be differentiated through the gradients.
        adapted: names of the parameters that move; all by default.
    """
    parameters: Parameters = policy.parameter_dict()
    for sample in samples:
        loss = ratio_loss(policy, sample) if ratio else likelihood_loss(policy, sample)
        parameters = inner_step(parameters, loss, step_size, adapted=adapted, second_order=second_order)
    return parameters
