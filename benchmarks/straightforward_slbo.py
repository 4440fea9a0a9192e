"""Simple PyTorch implementation of a warm-up of multi-task SLBO, the reference for the speed of ours.

The same mathematics and weights as in `metarl_agents.slbo`, written as one would from the papers: networks
are sequences of PyTorch's layers, every gradient is autograd's, products with the Hessian are found by
differentiating twice, and rewards are computed step by step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from metarl_agents.slbo.policy_step import SLBO_REGION
from metarl_agents.slbo.rollouts import Rollouts
from metarl_agents.slbo.training import Settings, VirtualTraining
from metarl_agents.slbo.virtual_env import VirtualVectorEnv
from metarl_agents.trials.trust_region import StepResult, flat, hessian_product, trust_region_step


def sequence(
    weights: Sequence[Tensor], biases: Sequence[Tensor], activation: type[nn.Module]
) -> nn.Sequential:
    """Returns a perceptron with copies of these weights."""
    layers: list[nn.Module] = []
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        layers += [layer, activation()] if number < len(weights) - 1 else [layer]
    return nn.Sequential(*layers)


class StraightforwardSLBO:
    """Fits copies of the dynamics and the values, and trains a copy of the policy."""

    def __init__(
        self,
        ours: VirtualTraining,
        policy: nn.Module,
        simulations: VirtualVectorEnv,
        settings: Settings,
        rate: float,
    ) -> None:
        self.settings, self.simulations, self.store = settings, simulations, ours.store
        self.generator, self.noise = ours.generator, ours.noise
        self.constants = ours.dynamics.constants()
        self.model = sequence(list(ours.dynamics.weights), list(ours.dynamics.biases), nn.ReLU)
        layers = range(policy.layers)
        self.policy = sequence(
            [policy.get_parameter(f"weight_{n}") for n in layers],
            [policy.get_parameter(f"bias_{n}") for n in layers],
            nn.Tanh,
        )
        self.log_std = nn.Parameter(policy.log_std.detach().clone())
        self.value = sequence(*ours.value._views(ours.value.flat.detach()), nn.Tanh)
        self.model_adam = torch.optim.Adam(self.model.parameters(), rate)
        self.value_adam = torch.optim.Adam(self.value.parameters(), rate)

    def normalised(self, obs: Tensor) -> Tensor:
        """Returns normalised observations."""
        return (obs - self.constants.mean) / self.constants.scale

    def change(self, obs: Tensor, act: Tensor) -> Tensor:
        """Returns the predicted, normalised changes."""
        return self.model(torch.cat((self.normalised(obs), act.clamp(-1, 1)), 1))

    def following(self, obs: Tensor, act: Tensor) -> Tensor:
        """Returns predicted next observations."""
        c = self.constants
        free = obs + c.change + c.spread * self.change(obs, act)
        return torch.minimum(torch.maximum(free, c.low), c.high)

    def fit_model(self) -> Tensor:
        """Returns the mean error over the steps."""
        settings, c = self.settings, self.constants
        errors = []
        for _ in range(settings.model_steps):
            data = self.store.draw(settings.model_batch, settings.sequence_length, self.generator)
            current, error = data.obs[0], torch.zeros(())
            for step in range(settings.sequence_length):
                target = (data.next_obs[step] - data.obs[step] - c.change) / c.target_scale
                difference = (self.change(current, data.act[step]) - target) * c.varies
                error = error + (difference.square().mean(1) + 1e-12).sqrt().mean() / settings.sequence_length
                if step + 1 < settings.sequence_length:
                    goes_on = (~data.ended[step])[:, None].float()
                    predicted = self.following(current, data.act[step])
                    recorded = data.obs[step + 1]
                    current = recorded + goes_on * (predicted - recorded)
            squares = sum(parameter.square().sum() for parameter in self.model.parameters())
            self.model_adam.zero_grad()
            (error + settings.weight_decay * 0.5 * squares).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_gradient_norm)
            self.model_adam.step()
            errors.append(error.detach())
        return torch.stack(errors).mean()

    def distribution(self, obs: Tensor) -> Independent:
        """Returns the distribution of actions."""
        return Independent(Normal(self.policy(self.normalised(obs)), self.log_std.exp()), 1)

    @torch.no_grad()
    def rollouts(self) -> Rollouts:
        """Returns virtual rollouts."""
        env, rows = self.simulations, []
        # Drawn as ours are, so that both have the same numbers.
        noise = torch.randn((env.horizon, env.num_envs, len(self.log_std)), generator=self.noise)
        obs = env.begin()
        for step in range(env.horizon):
            distribution = self.distribution(obs)
            act = distribution.mean + distribution.stddev * noise[step]
            following = self.following(obs, act)
            reward = env.rewards(obs.numpy(), act.numpy(), following.numpy())
            terminated = torch.from_numpy(env.reward_model.terminated(following.numpy()))
            ended = terminated | torch.full_like(terminated, step + 1 == env.horizon)
            rows.append((obs, act, following, torch.from_numpy(reward).float(), terminated, ended))
            obs = following
            if terminated.any() and step + 1 < env.horizon:
                obs = env.restart(terminated.numpy(), following)
        return Rollouts(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def advantages(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Returns advantages and targets of the values."""
        settings = self.settings
        with torch.no_grad():
            values = self.value(self.normalised(rollouts.obs)).squeeze(-1)
            following = self.value(self.normalised(rollouts.next_obs)).squeeze(-1)
        following = torch.where(rollouts.terminated, 0.0, following)
        errors = rollouts.reward + settings.gamma * following - values
        advantages, running = [], torch.zeros(errors.shape[1])
        for error, ended in zip(errors.flip(0), rollouts.ended.flip(0), strict=True):
            running = error + settings.gamma * settings.gae_lambda * (~ended).float() * running
            advantages.append(running)
        found = torch.stack(advantages[::-1])
        return found, found + values

    def policy_step(self, rollouts: Rollouts, advantages: Tensor) -> StepResult:
        """Takes a trust-region step."""
        obs, act, advantage = (x.flatten(0, 1) for x in (rollouts.obs, rollouts.act, advantages))
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        parameters = [*self.policy.parameters(), self.log_std]
        with torch.no_grad():
            old = self.distribution(obs)
            old = Independent(Normal(old.mean.clone(), old.stddev.clone()), 1)
            old_log_prob = old.log_prob(act)

        def loss() -> Tensor:
            new = self.distribution(obs)
            ratio = (new.log_prob(act) - old_log_prob).exp()
            return -(ratio * advantage).mean() - self.settings.entropy_cost * new.entropy().mean()

        def gradient() -> tuple[float, Tensor]:
            value = loss()
            return float(value.detach()), flat(torch.autograd.grad(value, parameters))

        def curvature() -> object:
            return hessian_product(kl_divergence(old, self.distribution(obs)).mean(), parameters)

        def evaluate() -> tuple[float, float]:
            with torch.no_grad():
                return float(loss()), float(kl_divergence(old, self.distribution(obs)).mean())

        return trust_region_step(
            parameters, gradient=gradient, curvature=curvature, evaluate=evaluate, region=SLBO_REGION
        )

    def fit_values(self, rollouts: Rollouts, targets: Tensor) -> None:
        """Fits the values."""
        inputs, wanted = self.normalised(rollouts.obs).flatten(0, 1), targets.flatten()
        for _ in range(self.settings.value_epochs):
            for rows in torch.randperm(len(wanted), generator=self.generator).split(
                self.settings.value_batch
            ):
                loss = nn.functional.mse_loss(self.value(inputs[rows]).squeeze(-1), wanted[rows])
                self.value_adam.zero_grad()
                loss.backward()
                self.value_adam.step()

    def inner_iteration(self) -> dict[str, float]:
        """Returns what ours reports, as far as it is compared."""
        error = self.fit_model()
        for _ in range(self.settings.policy_steps):
            rollouts = self.rollouts()
            advantages, targets = self.advantages(rollouts)
            result = self.policy_step(rollouts, advantages)
            self.fit_values(rollouts, targets)
        return {
            "model_error": float(error),
            "virtual_return": rollouts.mean_return,
            "policy_kl": result.kl,
            "action_std": float(self.log_std.detach().exp().mean()),
        }
