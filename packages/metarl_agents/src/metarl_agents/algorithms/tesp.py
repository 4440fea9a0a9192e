"""TESP: a task encoder that takes gradient steps on each task, and a policy shared by all.

Lan et al. 2019 (arXiv:1905.06527) with its released code. The encoder's embedding h of the best M
episodes so far conditions the policy (eqs. 3 to 7); of each task only the encoder adapts (eq. 9); the
policy, the encoder's start and the step sizes are learned in meta-updates, with eta times the mean
square of h added (eq. 10). A first batch of episodes with h = 0 fills the episode buffer.

The ablations of section 5.3 are values of the configuration: V1 `best_episodes=0`, V2
`adapt_policy=true`, V3 `embedding_penalty=0`, V4 `inner_step_size=0 learned_step_sizes=false`, V5
`learned_step_sizes=false`.

Decided here: the encoder sees actions, as the paper says; the released code feeds it the parameters
of the action distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarl_agents.algorithms.meta_sgd import (
    FastUpdateAlgorithm,
    FastUpdateConfig,
    state_std_perceptron,
    surrogate_and_kl,
)
from metarl_agents.networks.functional import Gaussian, GaussianMLP, TaskModel, conditioned
from metarl_agents.trials.episode_encoder import EpisodeEncoder, best_episodes, memory_of


@dataclass(frozen=True)
class EmbeddingConfig(FastUpdateConfig):
    """Configuration of agents with a task embedding: TESP and AdaptSV.

    Attributes:
        embedding_size: width d of the embedding h.
        embedding_penalty: eta, weight of the mean square of h.
    """

    embedding_size: int = 8
    embedding_penalty: float = 0.001

    may_be_zero: ClassVar[tuple[str, ...]] = (*FastUpdateConfig.may_be_zero, "embedding_penalty")


@dataclass(frozen=True)
class TESPConfig(EmbeddingConfig):
    """Configuration of TESP.

    Attributes:
        encoder_hidden: width of the encoder's GRU.
        best_episodes: maximum number M of episodes in a task's buffer; 0 keeps all.
        adapt_policy: whether fast updates also change the policy.
    """

    evaluation_protocols: tuple[str, ...] = ("tesp",)
    embedding_penalty: float = 0.005
    encoder_hidden: int = 256
    best_episodes: int = 16
    adapt_policy: bool = False

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *EmbeddingConfig.may_be_zero,
        "best_episodes",
        "adapt_policy",
    )


class TESPModel(TaskModel):
    """Task encoder and policy.

    Args:
        encoder: episodes -> embedding; the task's own.
        policy: perceptron on observation and embedding.
        size: width of the embedding.
        best: episodes in the buffer; None keeps all.
        adapt_policy: whether the policy is the task's own too.
    """

    # The encoder's loop over steps costs the more the fewer tasks go through it together.
    piece_steps = 50_000
    needs_memory = True

    def __init__(
        self,
        encoder: EpisodeEncoder,
        policy: GaussianMLP,
        *,
        size: int,
        best: int | None,
        adapt_policy: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.policy = policy
        self.size = size
        self.best = best
        self.adapt_policy = adapt_policy

    @property
    def own_names(self) -> Sequence[str]:
        """The encoder's parameters, and where it adapts the policy's."""
        names = [name for name, _ in self.named_parameters()]
        return [name for name in names if self.adapt_policy or name.startswith("encoder.")]

    def context(self, own: Mapping[str, Tensor], memory: Any) -> Tensor:
        """Embeddings of the remembered episodes; zeros before the first."""
        if memory is None:
            bias = own["encoder.bias_out"]
            return bias.new_zeros(len(bias), self.size)
        embedding: Tensor = self.encoder(memory, part(own, "encoder."))
        return embedding

    def remember(self, memory: Any, episodes: Any, device: torch.device) -> Any:
        """The best of old and new episodes."""
        return best_episodes(memory, memory_of(episodes, device), self.best)

    def distribution(self, obs_TMO: Tensor, own: Mapping[str, Tensor], context: Tensor | None) -> Gaussian:
        """See `TaskModel.distribution`."""
        chosen = part(own, "policy.") if self.adapt_policy else None
        return conditioned(self.policy, obs_TMO, context, chosen)


def part(own: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters of one submodule under its own names."""
    return {n.removeprefix(prefix): value for n, value in own.items() if n.startswith(prefix)}


class EmbeddingAlgorithm(FastUpdateAlgorithm):
    """Fast updates of what an embedding is computed from; the loss of a meta-update is eq. 10."""

    loss_names = ("surrogate", "policy_kl", "embedding_square", "step_size")
    config: EmbeddingConfig

    def loss(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Clipped surrogate loss plus eta times the mean square of h; see `FastUpdateAlgorithm.loss`."""
        model, tasks = self.policy.model, self.num_tasks
        sample = self.policy.samples[-1].rows(rows)
        adapted = self.adapted_parameters(rows)  # eq. 9
        embeddings_TD = model.context(adapted, sample.memory)  # eqs. 3 to 6
        assert embeddings_TD is not None
        new = model.distribution(sample.obs, adapted, embeddings_TD)  # eq. 7
        surrogate, kl = surrogate_and_kl(new, sample, tasks, self.config.clip)
        square = embeddings_TD.square().mean(-1).sum() / tasks
        found = torch.stack((surrogate.detach(), kl, square.detach()))
        return surrogate + self.config.embedding_penalty * square, found


class TESP(EmbeddingAlgorithm):
    """Fast updates of a task encoder; see the module for the source."""

    config_class: ClassVar[type[TESPConfig]] = TESPConfig

    @staticmethod
    def batch_names(config: FastUpdateConfig) -> Sequence[str]:
        """The batch that fills the buffer, then as without one."""
        return ("warm_up", *FastUpdateAlgorithm.batch_names(config))

    @classmethod
    def build_model(
        cls, config: FastUpdateConfig, observations: int, actions: int, generator: torch.Generator
    ) -> TaskModel:
        """Encoder and policy."""
        assert isinstance(config, TESPConfig)
        size = config.embedding_size
        policy = state_std_perceptron(config, observations + size, actions, generator)
        entry = observations + actions + 1
        return TESPModel(
            EpisodeEncoder(entry, config.encoder_hidden, size, generator=generator),
            policy,
            size=size,
            best=config.best_episodes or None,
            adapt_policy=config.adapt_policy,
        )
