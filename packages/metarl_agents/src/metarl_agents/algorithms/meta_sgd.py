"""Meta-SGD: the start of a policy and the step size of each of its parameters, learned together.

Li et al. 2017 (arXiv:1707.09835), as run in Lan et al. 2019 (arXiv:1905.06527) and its released code:
first order, K = 3 fast updates of the whole policy, whose log sigma depends on the state. With
`learned_step_sizes = false` this is what that paper calls MAML, alpha = 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl_agents.networks.functional import TaskModel
from metarl_agents.trials.adaptation import adapted
from metarl_agents.trials.fast_updates import FastUpdateAlgorithm, FastUpdateConfig, state_std_perceptron


@dataclass(frozen=True)
class MetaSGDConfig(FastUpdateConfig):
    """Configuration of Meta-SGD.

    Attributes:
        second_order: whether meta-updates differentiate the gradients of the fast updates, as in
            Li et al.; each iteration then recomputes them.
    """

    second_order: bool = False

    may_be_zero: ClassVar[tuple[str, ...]] = (*FastUpdateConfig.may_be_zero, "second_order")


class MetaSGD(FastUpdateAlgorithm):
    """Fast updates of the whole policy; see the module for the source."""

    config_class: ClassVar[type[MetaSGDConfig]] = MetaSGDConfig
    loss_names = ("surrogate", "policy_kl", "step_size")
    config: MetaSGDConfig

    @classmethod
    def build_model(
        cls, config: FastUpdateConfig, observations: int, actions: int, generator: torch.Generator
    ) -> TaskModel:
        """A perceptron, all of which adapts."""
        return state_std_perceptron(config, observations, actions, generator)

    def adapted_parameters(self, rows: slice) -> Mapping[str, Tensor]:
        """See `FastUpdateAlgorithm`; of second order where configured."""
        if not self.config.second_order:
            return super().adapted_parameters(rows)
        policy = self.policy
        return adapted(
            policy.model,
            policy.model.start(rows.stop - rows.start),
            [sample.rows(rows) for sample in policy.samples[:-1]],
            policy.inner_loss,
            policy.step_sizes.by_name(),
            second_order=True,
            max_norm=policy.max_norm,
        )
