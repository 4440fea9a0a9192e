"""A simple PyTorch implementation of PEARL's update, the reference for the speed of ours.

The same mathematics and the same weights as `metarl_agents.algorithms.pearl`, without its
optimisations: default Adam, a Polyak loop over parameters, and all gradients of autograd.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.algorithms.pearl import PEARL, PEARLBatch


class StraightforwardPEARL:
    """Trains copies of an algorithm's networks."""

    def __init__(self, algorithm: PEARL) -> None:
        self.config = algorithm.config
        self.encoder = copy.deepcopy(algorithm.policy.encoder.network)
        self.actor = copy.deepcopy(algorithm.policy.actor.network)
        self.first = copy.deepcopy(algorithm.networks.critics.first)
        self.second = copy.deepcopy(algorithm.networks.critics.second)
        self.value = copy.deepcopy(algorithm.networks.value)
        self.target = copy.deepcopy(algorithm.networks.value)
        rate = self.config.learning_rate
        self.encoder_optim = torch.optim.Adam(self.encoder.parameters(), rate)
        self.first_optim = torch.optim.Adam(self.first.parameters(), rate)
        self.second_optim = torch.optim.Adam(self.second.parameters(), rate)
        self.value_optim = torch.optim.Adam(self.value.parameters(), rate)
        self.actor_optim = torch.optim.Adam(self.actor.parameters(), rate)
        self.generator = torch.Generator().manual_seed(0)

    def sample(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns action, log-density, mean and log standard deviation."""
        mean, log_std = self.actor(state).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        noise = torch.randn(mean.shape, generator=self.generator)
        before = mean + log_std.exp() * noise
        action = torch.tanh(before)
        gaussian = torch.distributions.Normal(mean, log_std.exp())
        log_prob = gaussian.log_prob(before) - torch.log(1 - action.square() + 1e-6)
        return action, log_prob.sum(-1), mean, log_std

    def gradient_step(self, data: PEARLBatch) -> dict[str, Tensor]:
        """Makes one update of every network."""
        config = self.config
        mean, raw = self.encoder(data.context).chunk(2, -1)
        variance = F.softplus(raw).clamp(min=1e-7)
        posterior_variance = 1 / (1 / variance).sum(1)
        posterior_mean = posterior_variance * (mean / variance).sum(1)
        noise = torch.randn(posterior_mean.shape, generator=self.generator)
        latent = posterior_mean + posterior_variance.sqrt() * noise
        posterior = torch.distributions.Normal(posterior_mean, posterior_variance.sqrt())
        prior = torch.distributions.Normal(torch.zeros_like(latent), torch.ones_like(latent))
        kl = torch.distributions.kl_divergence(posterior, prior).sum()

        batch = data.transitions
        tasks, size, _ = batch.obs.shape
        flat = [column.reshape(tasks * size, *column.shape[2:]) for column in batch]
        obs, act, reward, terminated, obs_next = flat
        z = latent.repeat_interleave(size, 0)
        state = torch.cat([obs, z], 1)
        with torch.no_grad():
            next_value = self.target(torch.cat([obs_next, z], 1)).squeeze(1)
            target = config.reward_scale * reward + config.gamma * (1 - terminated) * next_value

        self.encoder_optim.zero_grad()
        self.first_optim.zero_grad()
        self.second_optim.zero_grad()
        (config.kl_weight * kl).backward(retain_graph=True)
        inputs = torch.cat([state, act], 1)
        critic_loss = F.mse_loss(self.first(inputs).squeeze(1), target) + F.mse_loss(
            self.second(inputs).squeeze(1), target
        )
        critic_loss.backward()
        self.first_optim.step()
        self.second_optim.step()
        self.encoder_optim.step()

        state = state.detach()
        action, log_prob, action_mean, log_std = self.sample(state)
        inputs = torch.cat([state, action], 1)
        q = torch.min(self.first(inputs), self.second(inputs)).squeeze(1)
        value_loss = F.mse_loss(self.value(state).squeeze(1), (q - log_prob).detach())
        self.value_optim.zero_grad()
        value_loss.backward()
        self.value_optim.step()
        with torch.no_grad():
            pairs = zip(self.target.parameters(), self.value.parameters(), strict=True)
            for slow, fast in pairs:
                slow.copy_((1 - config.tau) * slow + config.tau * fast)
        actor_loss = (
            (log_prob - q).mean()
            + config.mean_penalty * action_mean.square().mean()
            + config.log_std_penalty * log_std.square().mean()
        )
        self.actor_optim.zero_grad()
        actor_loss.backward()
        self.actor_optim.step()
        return {
            "critic_loss": critic_loss.detach(),
            "value_loss": value_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "kl": kl.detach(),
        }

    def networks(self) -> list[nn.Module]:
        """Returns the trained networks, in the order encoder, actor, critics, value, target."""
        return [self.encoder, self.actor, self.first, self.second, self.value, self.target]
