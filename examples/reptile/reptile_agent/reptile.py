"""Reptile: initial parameters of a policy, moved towards the parameters that each task adapts to.

Nichol, Achiam, Schulman 2018 (arXiv:1803.02999), with policy gradients as inner steps: an example of a small
agent, which has not been tuned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from metarl_agents.common.config import OnPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.trials.adaptation import likelihood_loss
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches
from metarl_agents.trials.policy import AdaptivePolicy, perceptron_policy


@dataclass(frozen=True)
class ReptileConfig(OnPolicyConfig):
    """Configuration of Reptile.

    Attributes:
        inner_steps: gradient steps of a trial.
        inner_step_size: alpha, step size of the gradient steps.
        outer_step_size: epsilon, share of the way to the adapted parameters.
    """

    inner_steps: int = 3
    inner_step_size: float = 0.1
    outer_step_size: float = 0.5


class Reptile(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Reptile; see the module for the source."""

    config_class: ClassVar[type[ReptileConfig]] = ReptileConfig
    loss_names = ("outer_step",)

    def __init__(self, *, policy: AdaptivePolicy, config: ReptileConfig, generator: torch.Generator) -> None:
        super().__init__(policy=policy)
        self.begin_run(1, generator)
        self.config = config

    @classmethod
    def from_config(cls, config: ReptileConfig, context: Context) -> Self:
        """A network with fresh weights from the run's seed, on the device."""
        policy = perceptron_policy(
            config, context, inner_step_size=config.inner_step_size, inner_loss=likelihood_loss
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: ReptileConfig) -> Sequence[str]:
        """Before each inner step, and after the last."""
        return adaptation_batches(config.inner_steps)

    @staticmethod
    def updates_per_iteration(config: ReptileConfig) -> int:
        """One."""
        return 1

    @torch.no_grad()
    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Theta += epsilon mean_i (theta_i' - theta), batch version of the paper's Algorithm 2."""
        squares = []
        ways = zip(*self.on_pieces("ways"), strict=True)
        for parameter, way in zip(self.policy.model.parameters(), ways, strict=True):
            step = self.config.outer_step_size * sum(way) / self.num_tasks
            parameter += step
            squares.append(step.square().sum())
        yield {"outer_step": torch.stack(squares).sum().sqrt()}

    @torch.no_grad()
    def ways(self, rows: slice) -> list[Tensor]:
        """The sum of theta_i' - theta over some tasks, for every parameter."""
        model, own = self.policy.model, self.policy.own
        return [(own[name][rows] - parameter).sum(0) for name, parameter in model.named_parameters()]
