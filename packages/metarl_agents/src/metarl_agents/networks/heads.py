"""Output layers of an actor, one per training task, and a network that predicts them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl_agents.networks.actors import TanhGaussianActor
from metarl_agents.networks.distributions import split_output
from metarl_agents.networks.perceptrons import mlp

#: Smallest scale of the heads' deviations from their mean. All heads are equal at first, so their
#: deviation is 0; a prediction near 1 times this scale then changes no action.
MIN_SCALE = 1e-6


class Heads(NamedTuple):
    """Linear output layers of G groups of rows, P = 2 A outputs over H features each.

    Attributes:
        weight: weights (G, P, H).
        bias: biases (G, P).
    """

    weight: Tensor
    bias: Tensor

    def flat(self) -> Tensor:
        """Weights and then biases of each head, shape (G, P * (H + 1))."""
        return torch.cat((self.weight.flatten(1), self.bias), 1)

    def like(self, flat_GD: Tensor) -> "Heads":
        """Heads of this size from the result of `flat`."""
        outputs, features = self.weight.shape[1:]
        weight_GD, bias_GP = flat_GD[:, :-outputs], flat_GD[:, -outputs:]
        return Heads(weight_GD.reshape(-1, outputs, features), bias_GP)

    def rows(self, rows: Tensor) -> "Heads":
        """The heads with these indices, in this order."""
        return Heads(self.weight.index_select(0, rows), self.bias.index_select(0, rows))


class MultiHeadActor(TanhGaussianActor):
    """A shared perceptron with one linear output layer per task.

    It draws the weights of a `TanhGaussianActor` from the generator, and every head is initially a copy
    of its last layer. Differences between heads are therefore only due to their tasks.

    Args:
        inputs: input size.
        hidden: widths of the hidden layers of the shared perceptron.
        actions: size A of an action.
        num_tasks: number of heads K.
        generator: CPU generator of the initial weights.
        released: whether they are exactly those of PEARL's released code; see `mlp`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        num_tasks: int,
        *,
        generator: torch.Generator,
        released: bool = False,
    ) -> None:
        super().__init__(inputs, hidden, actions, generator=generator, released=released)
        last = self.network.pop(-1)
        assert isinstance(last, nn.Linear)
        self.head_weight = nn.Parameter(last.weight.detach().repeat(num_tasks, 1, 1))
        self.head_bias = nn.Parameter(last.bias.detach().repeat(num_tasks, 1))

    def heads(self, tasks_G: Tensor | None = None) -> Heads:
        """Heads of the given tasks, or of all tasks."""
        every = Heads(self.head_weight, self.head_bias)
        return every if tasks_G is None else every.rows(tasks_G)

    def mean_head(self) -> Heads:
        """Mean over the heads, as one head (G = 1)."""
        return Heads(self.head_weight.mean(0, keepdim=True), self.head_bias.mean(0, keepdim=True))

    def forward(self, inputs_BI: Tensor, heads: Heads | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the tanh, both (B, A).

        Args:
            inputs_BI: inputs; B is a multiple of G, and the rows are G consecutive groups of equal size.
            heads: the heads (G, ...) of the groups; by default the mean head for all rows.
        """
        weight_GPH, bias_GP = self.mean_head() if heads is None else heads
        features_GBH = self.network(inputs_BI).unflatten(0, (len(weight_GPH), -1))
        output_GBP = torch.baddbmm(bias_GP[:, None], features_GBH, weight_GPH.mT)
        return split_output(output_GBP.flatten(0, 1))


class Standard(NamedTuple):
    """Standardisation of heads: their mean (1, D) and one scale for all D entries."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, heads_KD: Tensor) -> "Standard":
        """Mean, and root mean square deviation from it, of flattened heads.

        With one scale for all entries, the squared error is that of the heads themselves, up to a factor.
        With a scale per entry, unimportant entries would have the same weight as the others.
        """
        mean_1D = heads_KD.mean(0, keepdim=True)
        return cls(mean_1D, (heads_KD - mean_1D).square().mean().sqrt().clamp(min=MIN_SCALE))


class HeadAdapter(nn.Module):
    """Perceptron that predicts the standardised head of a task from one of its transitions.

    Its last layer is linear, so the mean of its predictions over transitions is that layer applied
    to the mean of `features`, whose size does not depend on that of the heads.

    Args:
        inputs: size I of a transition.
        hidden: widths of the hidden layers.
        head_size: size D of a flattened head.
        generator: CPU generator of the initial weights.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], head_size: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        # The last layer's bound is that of PEARL's encoder, which has the same inputs.
        self.features = mlp(inputs, hidden, head_size, generator=generator, last_bound=3e-3)
        self.last = self.features.pop(-1)
        self.width = inputs if not hidden else hidden[-1]

    def forward(self, transitions_BI: Tensor) -> Tensor:
        """Standardised deviations from the mean head, (..., D), of transitions (..., I)."""
        prediction_BD: Tensor = self.last(self.features(transitions_BI))
        return prediction_BD
