"""Training of a policy in learned dynamics, which are fitted further in between.

Landolfi et al. 2019 (arXiv:1907.04964), procedure VirtualTraining.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl_agents.common.matrix_products import products_by
from metarl_agents.networks.functional import GaussianMLP
from metarl_agents.slbo.config import SLBOConfig
from metarl_agents.slbo.dynamics import Constants, Dynamics, clip_gradients
from metarl_agents.slbo.policy_step import generalised_advantages, policy_step
from metarl_agents.slbo.rollouts import Rollouts, Simulations, run
from metarl_agents.slbo.transitions import TransitionStore
from metarl_agents.slbo.value import ValueNetwork
from metarl_agents.slbo.virtual_env import VirtualVectorEnv
from metarl_agents.trials.trust_region import StepResult

#: Names of what `VirtualTraining.inner_iteration` returns.
REPORTED = (
    "model_error", "virtual_return", "first_virtual_return", "policy_kl", "step_length", "value_loss",
    "action_std",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What an inner iteration does; the names are those of the agent's configuration.

    Attributes:
        model_steps: Adam steps on the dynamics.
        policy_steps: trust-region steps on the policy, each after new rollouts.
        model_batch: sequences of a step on the dynamics.
        sequence_length: steps of a sequence.
        weight_decay: weight of half the squared norm of the parameters of the dynamics in their loss.
        max_gradient_norm: larger gradients of the dynamics are scaled down to this norm.
        gamma: discount.
        gae_lambda: lambda of generalised advantage estimation.
        entropy_cost: weight of the entropy of the policy.
        limited_entropy: whether the entropy is that of the released code.
        curvature_every: the curvature of a policy step is estimated from every n-th step.
        value_epochs: passes over the data of a fit of the values.
        value_batch: steps of a minibatch of such a fit.
    """

    model_steps: int
    policy_steps: int
    model_batch: int
    sequence_length: int
    weight_decay: float
    max_gradient_norm: float
    gamma: float
    gae_lambda: float
    entropy_cost: float
    limited_entropy: bool
    curvature_every: int
    value_epochs: int
    value_batch: int

    @classmethod
    def of(cls, config: SLBOConfig) -> Settings:
        """The settings of a configuration; dynamics that are not learned take no steps."""
        names = {field.name for field in dataclasses.fields(cls)} - {"limited_entropy"}
        values = {name: getattr(config, name) for name in names}
        if config.dynamics != "learned":
            values["model_steps"] = 0
        return cls(**values, limited_entropy=config.entropy == "code")


class VirtualTraining:
    """Fits dynamics and trains policies in them.

    Args:
        settings: what an inner iteration does.
        dynamics: the dynamics.
        value: the value network; its inputs are normalised in the same way as those of the policy.
        store: the real steps.
        model_adam: optimiser of the dynamics.
        value_adam: optimiser of the value network.
        generator: source of minibatches.
        noise: source of the actions' noise.

    Attributes:
        products: what computes the matrix products of the dynamics; see `common.matrix_products`.
    """

    products = "default"

    def __init__(
        self,
        settings: Settings,
        dynamics: Dynamics,
        value: ValueNetwork,
        store: TransitionStore,
        *,
        model_adam: torch.optim.Optimizer,
        value_adam: torch.optim.Optimizer,
        generator: torch.Generator,
        noise: torch.Generator,
    ) -> None:
        self.settings = settings
        self.dynamics, self.value, self.store = dynamics, value, store
        self.model_adam, self.value_adam = model_adam, value_adam
        self.generator, self.noise = generator, noise

    def inner_iteration(self, policy: GaussianMLP, simulations: Simulations) -> dict[str, Tensor]:
        """Steps on the dynamics, then steps on the policy; returns the scalars `REPORTED`.

        Args:
            policy: the policy of the task, which is changed.
            simulations: virtual simulations of the task. Others (real ones, as a control) take no notice of
                the dynamics.
        """
        constants = self.dynamics.constants()
        with products_by(self.products):
            error = self._fit_dynamics(constants)
        if isinstance(simulations, VirtualVectorEnv):
            simulations.refresh()
        returns, losses = [], []
        for _ in range(self.settings.policy_steps):
            rollouts = run(simulations, policy, constants.mean, constants.scale, self.noise)
            returns.append(rollouts.mean_return)
            result, loss = self._learn(policy, rollouts, constants)
            losses.append(loss)
        found: dict[str, Any] = {
            "model_error": error,
            "virtual_return": returns[-1],
            "first_virtual_return": returns[0],
            "policy_kl": result.kl,
            "step_length": result.length,
            "value_loss": torch.stack(losses).mean(),
            "action_std": policy.log_std.detach().exp().mean(),
        }
        return {name: torch.as_tensor(found[name]) for name in REPORTED}

    def _fit_dynamics(self, constants: Constants) -> Tensor:
        """Takes the steps on the dynamics; returns their mean error."""
        settings, parameters = self.settings, [*self.dynamics.weights, *self.dynamics.biases]
        total = torch.zeros((), device=constants.mean.device)
        for _ in range(settings.model_steps):
            data = self.store.draw(settings.model_batch, settings.sequence_length, self.generator)
            total += self.dynamics.loss_and_gradient(data, constants, settings.weight_decay)
            clip_gradients(parameters, settings.max_gradient_norm)
            self.model_adam.step()
        return total / max(1, settings.model_steps)

    def _learn(
        self, policy: GaussianMLP, rollouts: Rollouts, constants: Constants
    ) -> tuple[StepResult, Tensor]:
        """A step on the policy and a fit of the values; returns what became of them."""
        settings = self.settings
        input_HNO = (rollouts.obs - constants.mean) / constants.scale
        value_HN = self.value(input_HNO.flatten(0, 1)).view(rollouts.reward.shape)
        next_HN = torch.empty_like(value_HN)
        next_HN[:-1] = value_HN[1:]
        # Only where an episode ends, the next row is another state.
        ends = rollouts.ended
        after = (rollouts.next_obs[ends] - constants.mean) / constants.scale
        next_HN[ends] = self.value(after)
        advantage_HN = generalised_advantages(
            rollouts.reward,
            value_HN,
            next_HN,
            rollouts.terminated,
            ends,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
        )
        input_MO = input_HNO.flatten(0, 1)
        result = policy_step(
            policy,
            input_MO,
            rollouts.act.flatten(0, 1),
            advantage_HN.flatten(),
            entropy_cost=settings.entropy_cost,
            limited_entropy=settings.limited_entropy,
            curvature_every=settings.curvature_every,
        )
        loss = self.value.fit(
            self.value_adam,
            input_MO,
            (advantage_HN + value_HN).flatten(),
            epochs=settings.value_epochs,
            batch_size=settings.value_batch,
            generator=self.generator,
        )
        return result, loss
