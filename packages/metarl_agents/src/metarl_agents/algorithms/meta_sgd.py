"""Meta-SGD: initial parameters of a policy and a step size for each of them, learned together.

Li et al. 2017 (arXiv:1707.09835), as it was run in Lan et al. 2019 (arXiv:1905.06527) and its released
code. In a trial, a task takes K gradient steps (fast updates) of the likelihood loss. Each gradient g_k is
clipped in norm; the learned step sizes alpha are bounded. The parameters after all of them are

    theta_K = theta - clip(alpha) o sum_k g_k.

The meta-update treats the g_k as constants. It is therefore of first order in theta, and its gradient with
respect to alpha is -(sum_k g_k) o dL/dtheta_K. (The paper does not say that the g_k are constants; the
released code is followed.) PPO's clipped surrogate loss of the adapted policies is minimised by Adam for a
fixed number of iterations. Of the parameters after each of them, and before the first, those with the
lowest surrogate loss are kept among those whose mean KL divergence is below a bound.

With `learned_step_sizes = false` this is what Lan et al. call MAML, with alpha = 1e-3. AdaptSV and TESP take
the same updates of other parameters (`tesp.py`, `adapt_sv.py`).

Decided here: a batch is a fixed number of episodes. The released code collects whole episodes until it has
a number of steps, which differs where episodes end early.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from metarl_agents.common.config import OnPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.networks.functional import Gaussian, GaussianMLP, TaskModel
from metarl_agents.networks.optimisers import adam
from metarl_agents.trials.adaptation import (
    StepSizes,
    adapted,
    clipped_loss,
    distribution,
    likelihood_loss,
    mean_kl,
    moved,
)
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm, adaptation_batches
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.policy import AdaptivePolicy, adaptive_policy

#: Bound on learned step sizes, and on the norm of a task's gradient (released code).
STEP_SIZE_BOUND, MAX_NORM = 0.1, 60.0


@dataclass(frozen=True)
class FastUpdateConfig(OnPolicyConfig):
    """Configuration of agents with fast updates: Meta-SGD, AdaptSV and TESP.

    Attributes:
        inner_steps: number K of fast updates in a trial.
        inner_step_size: step size alpha; if step sizes are learned, their initial value. Learned ones
            are bounded to +-0.1.
        learned_step_sizes: whether a step size is learned for every adapted parameter.
        outer_steps: iterations of a meta-update. The last one only evaluates the loss.
        clip: range of the probability ratio in PPO's surrogate loss.
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
class MetaSGDConfig(FastUpdateConfig):
    """Configuration of Meta-SGD.

    Attributes:
        second_order: whether meta-updates differentiate the gradients of the fast updates, as in Li et
            al.; each iteration of a meta-update then computes them again.
    """

    second_order: bool = False

    may_be_zero: ClassVar[tuple[str, ...]] = (*FastUpdateConfig.may_be_zero, "second_order")


def state_std_perceptron(
    config: FastUpdateConfig, inputs: int, actions: int, generator: torch.Generator
) -> GaussianMLP:
    """A policy network whose log sigma depends on the state, with the released code's initial weights."""
    return GaussianMLP(
        inputs, config.hidden, actions, generator=generator, state_std=True, column_norms=(1.0, 0.01)
    )


class FastUpdateAlgorithm(MetaOnPolicyAlgorithm[AdaptivePolicy]):
    """Fast updates of the parameters that a model declares as each task's own; see the module.

    A subclass builds the model and defines the loss of a meta-update.
    """

    config: FastUpdateConfig

    def __init__(
        self, *, policy: AdaptivePolicy, config: FastUpdateConfig, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy)
        self.begin_run(self.updates_per_iteration(config), generator)
        self.config = config
        self.optim = self._create_optimizer(policy, adam(config.learning_rate))

    @classmethod
    def build_model(
        cls, config: FastUpdateConfig, observations: int, actions: int, generator: torch.Generator
    ) -> TaskModel:
        """The networks, with weights from the generator."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: FastUpdateConfig, context: Context) -> Self:
        """Networks with fresh weights from the run's seed, on the device."""
        model = cls.build_model(config, context.observations, context.actions, context.weights())
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
    def updates_per_iteration(config: FastUpdateConfig) -> int:
        """The iterations of a meta-update, of which the last only evaluates the loss."""
        return config.outer_steps

    def adapted_parameters(self, rows: slice) -> Mapping[str, Tensor]:
        """Theta_K of some tasks, as a function of theta and alpha.

        The policy has stored the sums of the gradients g_k when it took the fast updates.
        """
        policy = self.policy
        gradients = {name: gradient[rows] for name, gradient in policy.gradients.items()}
        theta_T = policy.model.start(rows.stop - rows.start)
        return moved(theta_T, gradients, policy.step_sizes.by_name())

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """A meta-update: Adam steps, of which the best parameters within the KL bound are kept."""
        best, kept = float("inf"), self.current_parameters()
        for number in range(self.config.outer_steps):
            before = self.current_parameters()
            if number + 1 < self.config.outer_steps:
                found = self.step_on_pieces()
            else:
                found = torch.stack(self.on_pieces("reported")).sum(0)
            surrogate, kl = found[:2]
            if kl < self.config.kl_limit and surrogate < best:
                best, kept = float(surrogate), before
            yield dict(zip(self.loss_names, (*found, self._step_size()), strict=True))
        with torch.no_grad():
            for parameter, value in zip(self.policy.parameters(), kept, strict=True):
                parameter.copy_(value)

    def loss(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The contribution of some tasks to the loss of the meta-update.

        Returns:
            The loss, and the values of `loss_names` but the last: surrogate loss, KL divergence, and what
            the algorithm adds.
        """
        raise NotImplementedError

    def current_parameters(self) -> list[Tensor]:
        """Copies of everything that is learned."""
        return [parameter.detach().clone() for parameter in self.policy.parameters()]

    def _step_size(self) -> Tensor:
        alphas = self.policy.step_sizes.by_name().values()
        flat = [torch.as_tensor(alpha, device=self.device).detach().abs().reshape(-1) for alpha in alphas]
        return torch.cat(flat).mean()


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

    def loss(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Clipped surrogate loss of some tasks' adapted policies; see `FastUpdateAlgorithm.loss`."""
        sample = self.policy.samples[-1].rows(rows)
        new = distribution(self.policy.model, self.adapted_parameters(rows), sample)
        surrogate, kl = surrogate_and_kl(new, sample, self.num_tasks, self.config.clip)
        return surrogate, torch.stack((surrogate.detach(), kl))

    def adapted_parameters(self, rows: slice) -> Mapping[str, Tensor]:
        """Theta_K of some tasks; of second order, the g_k are computed again and differentiated."""
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


def surrogate_and_kl(new: Gaussian, sample: Sample, tasks: int, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped surrogate loss and KL divergence of some of `tasks` tasks, as parts of the mean over all."""
    surrogate = clipped_loss(new, sample, clip).sum() / tasks
    with torch.no_grad():
        kl = mean_kl(new, sample).sum() / tasks
    return surrogate, kl
