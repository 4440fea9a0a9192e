"""Gradient steps on each of several tasks, differentiable in where they start and how long they are.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), eq. 1; per-parameter step sizes of Li et al. 2017
(arXiv:1707.09835). Everything has a leading task axis: a batch of one task is the loop over tasks, a
batch of all of them the vectorised form; see `TrialPolicy.pieces` for what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from metarl_agents.networks.functional import Gaussian, Parameters, TaskModel
from metarl_agents.trials.episodes import Sample

#: A loss of every task (T,), from its action distributions and its sample.
Loss = Callable[[Gaussian, Sample], Tensor]


def chunks(tasks: int, size: int) -> list[slice]:
    """The tasks in consecutive chunks of `size`, of which the last may be smaller."""
    return [slice(first, min(first + size, tasks)) for first in range(0, tasks, size)]


def distribution(model: TaskModel, own: Mapping[str, Tensor], sample: Sample) -> Gaussian:
    """Action distributions of the sample's steps under these parameters."""
    return model.distribution(sample.obs, own, model.context(own, sample.memory))


def likelihood_loss(new: Gaussian, sample: Sample) -> Tensor:
    """-mean(log pi(a|s) A) of every task: the policy gradient of MAML's inner step."""
    return -(new.log_prob(sample.act) * sample.advantage * sample.weight).sum(-1)


def ratio_loss(new: Gaussian, sample: Sample) -> Tensor:
    """-mean(pi / pi_old A) of every task: the same gradient at pi_old, and the right second one.

    Rothfuss et al. 2019 (arXiv:1810.06784), section 5: differentiating the likelihood loss twice
    leaves out that the parameters also decide which steps are taken.
    """
    ratio = (new.log_prob(sample.act) - sample.old_log_prob).exp()
    return -(ratio * sample.advantage * sample.weight).sum(-1)


def clipped_loss(new: Gaussian, sample: Sample, clip: float) -> Tensor:
    """PPO's surrogate of every task: -mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A))."""
    ratio = (new.log_prob(sample.act) - sample.old_log_prob).exp()
    advantage = sample.advantage
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -(gain * sample.weight).sum(-1)


def mean_kl(new: Gaussian, sample: Sample) -> Tensor:
    """Mean KL(pi_old || pi) of every task over its states."""
    return (new.kl_from(sample.old) * sample.weight).sum(-1)


class StepSizes(nn.Module):
    """Step sizes alpha of the parameters that adapt: one number, or learned ones for each parameter.

    Args:
        own: the parameters that adapt, with a leading task axis.
        value: alpha, or where learned ones start.
        learned: whether there is one per parameter, to be learned.
        bound: learned ones are clipped to +-bound where they are used; None for no bound.
    """

    def __init__(
        self, own: Mapping[str, Tensor], value: float, *, learned: bool, bound: float | None = None
    ) -> None:
        super().__init__()
        self.names = list(own)
        self.value = value
        self.bound = bound
        self.learned = nn.ParameterList(
            [nn.Parameter(torch.full(own[name].shape[1:], value)) for name in self.names] if learned else []
        )

    def by_name(self) -> Mapping[str, Tensor | float]:
        """Alpha of every adapted parameter."""
        if not len(self.learned):
            return dict.fromkeys(self.names, self.value)
        bound = self.bound
        values = (p if bound is None else p.clamp(-bound, bound) for p in self.learned)
        return dict(zip(self.names, values, strict=True))


def task_gradients(
    own: Mapping[str, Tensor],
    losses_T: Tensor,
    *,
    create_graph: bool,
    max_norm: float | None = None,
) -> Parameters:
    """Gradient of each task's loss with respect to its own parameters.

    Args:
        own: parameters that adapt, with a leading task axis.
        losses_T: loss of every task.
        create_graph: whether the gradients can be differentiated.
        max_norm: bound on the norm of a task's gradient over all its parameters.
    """
    gradients = torch.autograd.grad(losses_T.sum(), list(own.values()), create_graph=create_graph)
    if max_norm is not None:
        norms = torch.stack([gradient.detach().flatten(1).norm(dim=1) for gradient in gradients])
        factor_T = (max_norm / norms.norm(dim=0).clamp(min=1e-12)).clamp(max=1.0)
        gradients = tuple(g * factor_T.view(-1, *[1] * (g.dim() - 1)) for g in gradients)
    return dict(zip(own, gradients, strict=True))


def moved(
    own: Mapping[str, Tensor], gradients: Mapping[str, Tensor], alpha: Mapping[str, Tensor | float]
) -> Parameters:
    """Theta - alpha o gradient."""
    return {name: value - alpha[name] * gradients[name] for name, value in own.items()}


def adapted(
    model: TaskModel,
    own: Mapping[str, Tensor],
    samples: Sequence[Sample],
    loss: Loss,
    alpha: Mapping[str, Tensor | float],
    *,
    second_order: bool,
    max_norm: float | None = None,
    first: Gaussian | None = None,
) -> Mapping[str, Tensor]:
    """Every task's parameters after one step on each sample, as a function of where they start.

    Args:
        model: the networks.
        own: where they start.
        samples: the tasks' data, one entry per step; without any, nothing moves.
        loss: loss of every task.
        alpha: step sizes by name.
        second_order: whether the result can be differentiated through the gradients.
        max_norm: see `task_gradients`.
        first: action distributions of the first sample at the start, where they are known already.
    """
    for sample in samples:
        new = first or distribution(model, own, sample)
        first = None
        slopes = task_gradients(own, loss(new, sample), create_graph=second_order, max_norm=max_norm)
        own = moved(own, slopes, alpha)
    return own
