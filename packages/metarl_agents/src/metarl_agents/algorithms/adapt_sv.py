"""AdaptSV: a shared policy conditioned on a single variable per task, which alone adapts.

The baseline of Lan et al. 2019 (arXiv:1905.06527) after MAESN: TESP without an encoder. The variable h
starts from a learned value and takes K fast updates with learned step sizes; the policy is shared and
learned in meta-updates only; eta times the mean square of h keeps embeddings near the origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metarl_agents.algorithms.meta_sgd import FastUpdateConfig, state_std_perceptron
from metarl_agents.algorithms.tesp import EmbeddingAlgorithm, EmbeddingConfig
from metarl_agents.networks.functional import Gaussian, GaussianMLP, TaskModel, conditioned


@dataclass(frozen=True)
class AdaptSVConfig(EmbeddingConfig):
    """Configuration of AdaptSV."""


class LatentModel(TaskModel):
    """A policy on the observation and a variable h, which is the task's own.

    Args:
        policy: perceptron on observation and h.
        size: width of h, which starts with norm 0.01 (released code).
        generator: CPU generator of where h starts.
    """

    def __init__(self, policy: GaussianMLP, size: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.policy = policy
        start = torch.randn(size, generator=generator)
        self.latent = nn.Parameter(0.01 * start / start.norm())

    @property
    def own_names(self) -> Sequence[str]:
        """The variable."""
        return ("latent",)

    def context(self, own: Mapping[str, Tensor], memory: Any) -> Tensor:
        """The variable itself."""
        return own["latent"]

    def distribution(self, obs_TMO: Tensor, own: Mapping[str, Tensor], context: Tensor | None) -> Gaussian:
        """See `TaskModel.distribution`."""
        return conditioned(self.policy, obs_TMO, context)


class AdaptSV(EmbeddingAlgorithm):
    """Fast updates of a single variable; see the module for the source."""

    config_class: ClassVar[type[AdaptSVConfig]] = AdaptSVConfig

    @classmethod
    def build_model(
        cls, config: FastUpdateConfig, observations: int, actions: int, generator: torch.Generator
    ) -> TaskModel:
        """A perceptron on the observation and h."""
        assert isinstance(config, AdaptSVConfig)
        policy = state_std_perceptron(config, observations + config.embedding_size, actions, generator)
        return LatentModel(policy, config.embedding_size, generator=generator)
