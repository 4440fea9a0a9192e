"""What Meta-SGD, AdaptSV and TESP share: fast updates with learned step sizes, proximal meta-updates.

Lan et al. 2019 (arXiv:1905.06527) and its released code. In a trial K gradients g_k of the likelihood
loss are taken, each clipped in norm, with respect to what adapts; the parameters after them are

    theta_K = theta - clip(alpha) o sum_k g_k.

The meta-update keeps the g_k as constants, so it is of first order in theta, and its gradient with
respect to alpha is -(sum_k g_k) o dL/dtheta_K. (The paper writes the update without saying that the
g_k are constants; the code is followed.) PPO's clipped surrogate of the adapted policies is lowered by
Adam for a fixed number of iterations; of the parameters seen on the way, those with the lowest
surrogate among those with a mean KL divergence below a bound are kept. The parameters before the first
of these steps are among them.

Decided here: a batch is a fixed number of episodes, where the released code collects whole episodes
until it has so many steps, which differs where episodes end early.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from metarl_agents.common.config import OnPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.networks.functional import GaussianMLP, TaskModel
from metarl_agents.networks.optimisers import adam
from metarl_agents.trials.adaptation import (
    StepSizes,
    chunks,
    clipped_loss,
    likelihood_loss,
    mean_kl,
    moved,
)
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches, step_on_tasks
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.policy import AdaptivePolicy, adaptive_policy

#: Bound on learned step sizes, and on the norm of a task's gradient (released code).
STEP_SIZE_BOUND, MAX_NORM = 0.1, 60.0


@dataclass(frozen=True)
class FastUpdateConfig(OnPolicyConfig):
    """Settings of agents with fast updates.

    Attributes:
        inner_steps: number K of fast updates (gradient steps) in a trial.
        inner_step_size: alpha, or the initial value of learned step sizes, which are bounded to +-0.1.
        learned_step_sizes: whether every adapted parameter has its own learned alpha.
        outer_steps: iterations of a meta-update; the last one takes no gradient step.
        clip: clipping range of the probability ratios.
        kl_limit: bound on the mean KL divergence of the parameters that a meta-update keeps.
    """

    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    evaluation_protocols: tuple[str, ...] = ("meta_sgd",)
    tasks_per_iteration: int = 20
    episodes_per_task: int = 25
    gae_lambda: float = 0.97
    # The released code does not, and its step size and bound on gradients belong to raw advantages.
    standardise_advantages: bool = False
    inner_steps: int = 3
    inner_step_size: float = 1e-3
    learned_step_sizes: bool = True
    outer_steps: int = 20
    clip: float = 0.15
    kl_limit: float = 0.01

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *OnPolicyConfig.may_be_zero,
        "inner_step_size",
        "learned_step_sizes",
    )


@dataclass(frozen=True)
class EmbeddingConfig(FastUpdateConfig):
    """Settings of agents with a task embedding.

    Attributes:
        embedding_size: dimension d of the embedding h.
        embedding_penalty: eta, weight of the mean square of h.
    """

    embedding_size: int = 8
    embedding_penalty: float = 0.001

    may_be_zero: ClassVar[tuple[str, ...]] = (*FastUpdateConfig.may_be_zero, "embedding_penalty")


def state_std_perceptron(
    config: FastUpdateConfig, inputs: int, actions: int, generator: torch.Generator
) -> GaussianMLP:
    """The policies' network: log sigma depends on the state, and weights start as in the released code."""
    return GaussianMLP(
        inputs, config.hidden, actions, generator=generator, state_std=True, column_norms=(1.0, 0.01)
    )


class FastUpdateAlgorithm(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Meta-updates of what a subclass's model is made of; see the module for the source."""

    loss_names: ClassVar[tuple[str, ...]] = ("surrogate", "policy_kl", "embedding_square", "step_size")

    def __init__(
        self, *, policy: AdaptivePolicy, config: FastUpdateConfig, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.steps_per_update(config), generator)
        self.config = config
        self.penalty = config.embedding_penalty if isinstance(config, EmbeddingConfig) else 0.0
        self.optim = self._create_optimizer(policy, adam(config.learning_rate))

    @classmethod
    def build_model(
        cls, config: FastUpdateConfig, observations: int, actions: int, generator: torch.Generator
    ) -> TaskModel:
        """The networks, with weights from the generator."""
        raise NotImplementedError

    @classmethod
    def from_config(
        cls,
        config: FastUpdateConfig,
        context: Context,
    ) -> Self:
        """Networks with fresh weights from the run's seed, on the device."""
        weights = context.weights()
        model = cls.build_model(config, context.observations, context.actions, weights)
        step_sizes = StepSizes(
            model.start(1),
            config.inner_step_size,
            learned=config.learned_step_sizes,
            bound=STEP_SIZE_BOUND,
        )
        policy = adaptive_policy(
            model, step_sizes, config, context, inner_loss=likelihood_loss, max_norm=MAX_NORM
        )
        return cls(policy=policy.to(context.device), config=config, generator=context.stream("update"))

    @staticmethod
    def batch_names(config: FastUpdateConfig) -> Sequence[str]:
        """Before each fast update, and after the last."""
        return adaptation_batches(config.inner_steps)

    @staticmethod
    def steps_per_update(config: FastUpdateConfig) -> int:
        """The iterations of a meta-update, of which the last only measures."""
        return config.outer_steps

    def adapted_parameters(self, rows: slice) -> Mapping[str, Tensor]:
        """What some tasks' parameters are after the fast updates, as a function of theta and alpha."""
        policy = self.policy
        gradients = {name: gradient[rows] for name, gradient in policy.gradients.items()}
        count = rows.stop - rows.start
        return moved(policy.model.start(count), gradients, policy.step_sizes.by_name())

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Adam steps on the clipped surrogate; keeps the best parameters near those that acted."""
        best, kept = float("inf"), self.current_parameters()
        for number in range(self.config.outer_steps):
            before = self.current_parameters()
            rows = chunks(self.policy.model, self.policy.samples[-1])
            if number + 1 < self.config.outer_steps:
                found = step_on_tasks(self.optim, self.loss, rows, self.threads)
            else:
                found = torch.stack([self.loss(chunk)[1] for chunk in rows]).sum(0)
            surrogate, kl, square = found
            if kl < self.config.kl_limit and surrogate < best:
                best, kept = float(surrogate), before
            yield {
                "surrogate": surrogate,
                "policy_kl": kl,
                "embedding_square": square,
                "step_size": self._step_size(),
            }
        with torch.no_grad():
            for parameter, value in zip(self.policy.parameters(), kept, strict=True):
                parameter.copy_(value)

    def current_parameters(self) -> list[Tensor]:
        """Copies of everything that is learned."""
        return [parameter.detach().clone() for parameter in self.policy.parameters()]

    def _step_size(self) -> Tensor:
        alphas = self.policy.step_sizes.by_name().values()
        flat = [torch.as_tensor(alpha, device=self.device).detach().abs().reshape(-1) for alpha in alphas]
        return torch.cat(flat).mean()

    def loss(self, rows: slice) -> tuple[Tensor, Tensor]:
        """What some tasks add to the loss, and to surrogate, divergence and mean square of embeddings."""
        model, outer = self.policy.model, self.policy.samples[-1]
        tasks = len(outer.obs)
        sample: Sample = outer.rows(rows)
        own = self.adapted_parameters(rows)
        context = model.context(own, sample.memory)
        new = model.distribution(sample.obs, own, context)
        surrogate = clipped_loss(new, sample, self.config.clip).sum() / tasks
        square = surrogate.new_zeros(())
        if context is not None:
            square = context.square().mean(-1).sum() / tasks
        with torch.no_grad():
            kl = mean_kl(new, sample).sum() / tasks
        found = torch.stack((surrogate.detach(), kl, square.detach()))
        return surrogate + self.penalty * square, found
