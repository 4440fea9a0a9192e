"""Gaussian policies as functions of their parameters, which may differ from task to task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Parameters = dict[str, Tensor]

#: Lower bound of log sigma (ProMP's released code: log 1e-6).
MIN_LOG_STD = math.log(1e-6)
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
#: With fewer rows, tasks are always a batch of products, also if there is only one. What is computed for a
#: task then does not depend on the number of other tasks, bit for bit. Acting has fewer rows.
PLAIN_ROWS = 512


class Gaussian(NamedTuple):
    """Diagonal Gaussians over actions.

    Attributes:
        mean: means (..., A).
        log_std: log standard deviations, with a shape that broadcasts to that of the means.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density (...) of actions (..., A)."""
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled.square() - self.log_std - HALF_LOG_TWO_PI).sum(-1)

    def kl_from(self, old: Gaussian) -> Tensor:
        """KL(old || self), shape (...), exact."""
        variance, old_variance = (2 * self.log_std).exp(), (2 * old.log_std).exp()
        squares = old_variance + (old.mean - self.mean).square()
        return (self.log_std - old.log_std + squares / (2 * variance) - 0.5).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, with the shape of the log standard deviations without the last axis."""
        return (self.log_std + HALF_LOG_TWO_PI + 0.5).sum(-1)

    def detach(self) -> Gaussian:
        """The same without a graph."""
        return Gaussian(self.mean.detach(), self.log_std.detach())

    def draw(self, generator: torch.Generator) -> Tensor:
        """Sampled actions (..., A)."""
        return self.with_noise(torch.randn(self.mean.shape, generator=generator, device=self.mean.device))

    def with_noise(self, noise: Tensor) -> Tensor:
        """Actions (..., A) for standard normal noise of the same shape."""
        return self.mean + self.log_std.exp() * noise


class TaskModel(nn.Module):
    """Networks of a policy in which every task has its own copy of some parameters.

    These parameters (`own`) are tensors with a leading task axis; the others are shared.
    """

    #: Number of steps, in whole tasks, that are learned from together; see `TrialPolicy.pieces`.
    piece_steps: ClassVar[int] = 2000
    #: Whether actions depend on earlier episodes of the task.
    needs_memory: ClassVar[bool] = False

    @property
    def own_names(self) -> Sequence[str]:
        """Names of the parameters of which tasks have copies; by default, all of them."""
        return [name for name, _ in self.named_parameters()]

    def start(self, tasks: int) -> Parameters:
        """The copies before adaptation, all equal to the module's parameters."""
        chosen = set(self.own_names)
        return {n: p.expand(tasks, *p.shape) for n, p in self.named_parameters() if n in chosen}

    def context(self, own: Mapping[str, Tensor], memory: Any) -> Tensor | None:
        """A value computed once per batch of episodes: a task embedding (T, D), or None."""
        return None

    def remember(self, memory: Any, episodes: Any, device: torch.device) -> Any:
        """The memory, on a device, after another batch of episodes (`episodes.Episodes`)."""
        return None

    @abstractmethod
    def distribution(self, obs_TMO: Tensor, own: Mapping[str, Tensor], context: Tensor | None) -> Gaussian:
        """Action distributions (T, M, A) of every task's observations."""


class GaussianMLP(TaskModel):
    """Tanh perceptron with a Gaussian head whose log sigma is a parameter vector or an output.

    As a `TaskModel`, every task has its own copy of all parameters.

    Args:
        inputs: input size.
        hidden: widths of the hidden layers.
        actions: size A of an action.
        generator: CPU generator of the initial weights.
        state_std: whether log sigma depends on the input (TESP) or is one vector (MAML, ProMP).
        column_norms: norms of the initial weights of a unit, in hidden layers and in the last one
            (TESP's released code: 1.0 and 0.01); None: Xavier-uniform weights, as in ProMP.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        generator: torch.Generator,
        state_std: bool = False,
        column_norms: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.actions = actions
        self.state_std = state_std
        self.layers = len(hidden) + 1
        width = inputs
        for number, size in enumerate((*hidden, actions * (1 + state_std))):
            if column_norms is None:
                bound = math.sqrt(6.0 / (width + size))
                weight = torch.empty(size, width).uniform_(-bound, bound, generator=generator)
            else:
                weight = torch.randn(size, width, generator=generator)
                weight *= column_norms[number == len(hidden)] / weight.norm(dim=1, keepdim=True)
            self.register_parameter(f"weight_{number}", nn.Parameter(weight))
            self.register_parameter(f"bias_{number}", nn.Parameter(torch.zeros(size)))
            width = size
        if not state_std:
            self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, inputs: Tensor, own: Mapping[str, Tensor] | None = None) -> Gaussian:
        """Action distributions of inputs (..., I), or (T, M, I) if tasks have their own parameters.

        Args:
            inputs: the inputs.
            own: parameters with a leading task axis, instead of the module's.
        """
        hidden, batched = inputs, False
        few = inputs.dim() == 3 and inputs.shape[1] < PLAIN_ROWS
        if own is None and few:
            own = self.start(len(inputs))
        chosen: Mapping[str, Tensor] = dict(self.named_parameters()) if own is None else own
        if own is not None:
            batched = few or own["weight_0"].shape[0] > 1
            if not batched:
                # A simple product is a tenth faster than a batch of one.
                chosen, hidden = {name: value[0] for name, value in own.items()}, inputs[0]
        for number in range(self.layers):
            weight, bias = chosen[f"weight_{number}"], chosen[f"bias_{number}"]
            if batched:
                # Takes half the time of baddbmm, which first copies the bias to every row.
                hidden = torch.bmm(hidden, weight.mT).add_(bias[:, None])
            else:
                hidden = linear(hidden, weight, bias)
            if number < self.layers - 1:
                hidden = hidden.tanh_()
        if self.state_std:
            mean, log_std = hidden.chunk(2, -1)
        else:
            mean, log_std = hidden, chosen["log_std"]
            log_std = log_std[:, None] if batched else log_std
        if own is not None and not batched:
            mean, log_std = mean[None], log_std.expand(1, 1, -1) if log_std.dim() == 1 else log_std[None]
        return Gaussian(mean, log_std.clamp(min=MIN_LOG_STD))

    def distribution(self, obs_TMO: Tensor, own: Mapping[str, Tensor], context: Tensor | None) -> Gaussian:
        """See `TaskModel.distribution`."""
        return self.forward(obs_TMO, own)


def conditioned(
    policy: GaussianMLP, obs_TMO: Tensor, context: Tensor | None, own: Mapping[str, Tensor] | None = None
) -> Gaussian:
    """Action distributions of observations with each task's embedding (T, D) appended."""
    assert context is not None
    context_TMD = context[:, None].expand(-1, obs_TMO.shape[1], -1)
    return policy.forward(torch.cat((obs_TMO, context_TMD), -1), own)
