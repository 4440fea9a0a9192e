"""Networks of which every task has its own copy, evaluated for all tasks together; Adam for each task.

The architectures are those of `networks.layer_norm`. Parameters have a leading task axis; a network that all
tasks share has 1 there. Every product is a batch with one product per task, so what is computed for a task is
the same without the others, up to rounding.

Letters: T tasks, N rows of a task, K actions of a row, O observation, A action, H units, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.networks.functional import Gaussian, Parameters

#: Rows (of all actions of all tasks) that are evaluated at a time: their activations stay in a core's cache.
BLOCK_ROWS = 2560


def stack(networks: Sequence[nn.Module]) -> Parameters:
    """Parameters of networks of one architecture, with a leading axis for the networks; no empty ones."""
    named = [dict(network.named_parameters()) for network in networks]
    used = [name for name, value in named[0].items() if value.numel()]
    return {name: torch.stack([each[name].detach() for each in named]) for name in used}


def product(inputs_TNI: Tensor, weight_THI: Tensor) -> Tensor:
    """Products (T, N, H) of the rows of each task and its weights, or shared ones."""
    tasks = len(inputs_TNI)
    if len(weight_THI) != tasks:
        weight_THI = weight_THI.expand(tasks, -1, -1)
    return torch.bmm(inputs_TNI, weight_THI.mT)


def _torso(parameters: Mapping[str, Tensor], mapped_TNH: Tensor) -> Tensor:
    """Last hidden layer (T, N, F) of a `Torso`, after the linear map of its first layer.

    Activations replace their inputs in memory, which no gradient needs.
    """
    width = mapped_TNH.shape[-1]
    hidden = F.layer_norm(mapped_TNH, (width,))
    # tanh(x) = 2 sigmoid(2 x) - 1, and PyTorch's sigmoid is several times as fast as its tanh. The factors
    # are part of the layers around it.
    gain, shift = (2.0 * parameters[f"torso.first.norm.{part}"][:, None] for part in ("weight", "bias"))
    # The gradient in the gain needs the normalised layer.
    hidden = torch.addcmul(shift, hidden, gain) if gain.requires_grad else hidden.mul_(gain).add_(shift)
    hidden.sigmoid_()
    number = 0
    while f"torso.layers.{number}.weight" in parameters:
        weight, bias = (parameters[f"torso.layers.{number}.{part}"] for part in ("weight", "bias"))
        if number == 0:
            weight, bias = 2.0 * weight, bias - weight.sum(-1)
        hidden = F.elu_(product(hidden, weight).add_(bias[:, None]))
        number += 1
    return hidden if number else 2.0 * hidden - 1.0


def _map_observations(parameters: Mapping[str, Tensor], obs_TNO: Tensor) -> Tensor:
    """The part (T, N, H) of the first layer that depends on the observation only, with the bias."""
    return product(obs_TNO, parameters["torso.first.maps.0"]).add_(parameters["torso.first.bias"][:, None])


def gaussian(parameters: Mapping[str, Tensor], std: tuple[float, float, float], obs_TNO: Tensor) -> Gaussian:
    """Distributions (T, N, A) of a `GaussianPolicy` that does not see the task.

    Args:
        parameters: of the policies of all tasks.
        std: lowest, initial and highest standard deviation.
        obs_TNO: observations.
    """
    hidden = _torso(parameters, _map_observations(parameters, obs_TNO))

    def head(name: str) -> Tensor:
        return product(hidden, parameters[f"{name}.weight"]).add_(parameters[f"{name}.bias"][:, None])

    low, initial, high = std
    share = (initial - low) / (high - low)
    offset = math.log(share / (1.0 - share))
    spread = low + (high - low) * torch.sigmoid(head("spread") + offset)
    return Gaussian(torch.tanh(head("mean")), spread.log())


def features(parameters: Mapping[str, Tensor], obs_TNO: Tensor, act_TNKA: Tensor) -> Tensor:
    """Features psi(s, a), shape (T, N, K, F), of K actions of each row."""
    tasks, rows, samples, size = act_TNKA.shape
    mapped = product(act_TNKA.clamp(-1.0, 1.0).reshape(tasks, rows * samples, size), _action_map(parameters))
    state_TNH = _map_observations(parameters, obs_TNO)
    mapped_TNKH = mapped.view(tasks, rows, samples, -1).add_(state_TNH[:, :, None])
    return _torso(parameters, mapped_TNKH.view(tasks, rows * samples, -1)).view(tasks, rows, samples, -1)


def _action_map(parameters: Mapping[str, Tensor]) -> Tensor:
    return parameters["torso.first.maps.1"]


def outputs(features_TNKF: Tensor, weight_TF: Tensor, constant_T: Tensor | None) -> Tensor:
    """Values (T, N, K): features times each task's weights, plus a constant."""
    tasks, rows, samples, size = features_TNKF.shape
    values = product(features_TNKF.reshape(tasks, rows * samples, size), weight_TF[:, None])
    values = values.view(tasks, rows, samples)
    return values if constant_T is None else values + constant_T[:, None, None]


def block_size(tasks: int, samples: int) -> int:
    """Number of rows of each task that are evaluated at a time."""
    return max(1, BLOCK_ROWS // (tasks * samples))


def row_blocks(tasks: int, rows: int, samples: int) -> Iterator[slice]:
    """Consecutive blocks of the rows of each task."""
    size = block_size(tasks, samples)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


class TaskAdam:
    """Adam for parameters with a leading task axis; every task has its own number of steps.

    Kingma and Ba 2015 (arXiv:1412.6980), with PyTorch's constants. Gradients of a task whose norm over all
    parameters is too large are scaled down to the largest norm.

    Args:
        parameters: tensors (T, ...); they are changed in place.
        learning_rate: step size.
        max_norm: largest norm of the gradient of a task.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, parameters: Parameters, learning_rate: float, max_norm: float = math.inf) -> None:
        self.parameters = parameters
        self.learning_rate, self.max_norm = learning_rate, max_norm
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        value = next(iter(parameters.values()))
        self.steps_T = torch.zeros(len(value), dtype=value.dtype, device=value.device)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], tasks_U: Tensor) -> None:
        """One step of the tasks `tasks_U`, from gradients (U, ...)."""
        squares_U = torch.stack([g.square().reshape(len(g), -1).sum(1) for g in gradients.values()]).sum(0)
        scale_U = (self.max_norm / (squares_U.sqrt() + 1e-6)).clamp(max=1.0)
        self.steps_T[tasks_U] += 1.0
        steps_U = self.steps_T[tasks_U]
        one, two = self.BETAS
        for name, gradient in gradients.items():

            def like(each_U: Tensor, dimensions: int = gradient.dim()) -> Tensor:
                return each_U.view(-1, *(1,) * (dimensions - 1))

            gradient = gradient * like(scale_U)
            first = torch.lerp(self.first[name][tasks_U], gradient, 1.0 - one)
            second = torch.lerp(self.second[name][tasks_U], gradient.square(), 1.0 - two)
            self.first[name][tasks_U], self.second[name][tasks_U] = first, second
            mean = first / like(1.0 - one**steps_U)
            deviation = (second / like(1.0 - two**steps_U)).sqrt() + self.EPSILON
            self.parameters[name][tasks_U] -= self.learning_rate * mean / deviation

    def state(self) -> Parameters:
        """Moments and numbers of steps."""
        return {
            "steps": self.steps_T,
            **{f"first.{name}": value for name, value in self.first.items()},
            **{f"second.{name}": value for name, value in self.second.items()},
        }


class TaskNetworks:
    """Parameters with a leading task axis, their target copies, and their optimiser.

    Parameters that are not learned may have a leading axis of 1, and are their own target.

    Args:
        parameters: the parameters.
        learned: names of those that are learned.
        learning_rate: Adam's step size.
        max_norm: largest norm of the gradient of a task.
        target_period: updates of a task between copies to its target network.
    """

    def __init__(
        self,
        parameters: Parameters,
        learned: Sequence[str],
        *,
        learning_rate: float,
        max_norm: float,
        target_period: int,
    ) -> None:
        self.online = parameters
        self.learned = list(learned)
        self.target_period = target_period
        self.target = parameters | {name: parameters[name].clone() for name in learned}
        self.optimiser = TaskAdam({name: parameters[name] for name in learned}, learning_rate, max_norm)

    def chosen(self, tasks_U: Tensor, *, target: bool = False) -> Parameters:
        """The parameters of some tasks."""
        source = self.target if target else self.online
        return {name: value if len(value) == 1 else value[tasks_U] for name, value in source.items()}

    def leaves(self, tasks_U: Tensor) -> Parameters:
        """The same, with a gradient; only of networks of which everything is learned."""
        return {name: value.detach().requires_grad_() for name, value in self.chosen(tasks_U).items()}

    def step(self, gradients: Mapping[str, Tensor], tasks_U: Tensor) -> Tensor:
        """One step, from gradients (U, ...). Returns the tasks whose target networks were replaced."""
        self.optimiser.step(gradients, tasks_U)
        due = tasks_U[self.optimiser.steps_T[tasks_U] % self.target_period == 0]
        for name in self.learned:
            self.target[name][due] = self.online[name][due]
        return due

    def state(self) -> Parameters:
        """All that changes, as the tensors that hold it."""
        return {
            **{f"online.{name}": self.online[name] for name in self.learned},
            **{f"target.{name}": self.target[name] for name in self.learned},
            **{f"optimiser.{name}": value for name, value in self.optimiser.state().items()},
        }


def descend(networks: TaskNetworks, leaves: Parameters, loss: Tensor, tasks_U: Tensor) -> Tensor:
    """One step of networks of which everything is learned; see `TaskNetworks.step`.

    Args:
        networks: the networks.
        leaves: what `TaskNetworks.leaves` returned, in the graph of the loss.
        loss: sum of the losses of the tasks.
        tasks_U: the tasks.
    """
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return networks.step(dict(zip(leaves, gradients, strict=True)), tasks_U)
