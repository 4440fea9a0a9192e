"""A simple PyTorch implementation of TD3-context's update, the reference for the speed of ours.

The same mathematics and the same weights as `metarl_agents.algorithms.td3_context`: four `torch.nn.GRU`,
default Adam, a Polyak loop over parameters.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.algorithms.td3_context import ContextBatch, TD3Context
from metarl_agents.networks.gru import WindowGRU


def library_gru(ours: WindowGRU) -> nn.GRU:
    """Returns PyTorch's GRU with the same weights."""
    gru = nn.GRU(ours.inputs, ours.width)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(gru, f"{name}_l0").copy_(getattr(ours, name))
    return gru


class StraightforwardTD3Context:
    """Trains copies of an algorithm's networks."""

    def __init__(self, algorithm: TD3Context) -> None:
        self.config = algorithm.config
        actor, critic = algorithm.policy.actor, algorithm.networks.critic
        self.actor = nn.ModuleList([library_gru(actor.gru), copy.deepcopy(actor.head.network)])
        self.critic = nn.ModuleList(
            [library_gru(critic.gru), copy.deepcopy(critic.twins.first), copy.deepcopy(critic.twins.second)]
        )
        self.slow_actor = copy.deepcopy(self.actor)
        self.slow_critic = copy.deepcopy(self.critic)
        self.actor_optim = torch.optim.Adam(self.actor.parameters(), self.config.learning_rate)
        self.critic_optim = torch.optim.Adam(self.critic.parameters(), self.config.learning_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.updates = 0

    @staticmethod
    def act(actor: nn.ModuleList, obs: Tensor, window: Tensor) -> Tensor:
        """Returns the actor's actions."""
        _, hidden = actor[0](window)
        return torch.tanh(actor[1](torch.cat([obs, hidden[0]], 1)))

    @staticmethod
    def value(critic: nn.ModuleList, obs: Tensor, act: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both critics' values."""
        _, hidden = critic[0](window)
        inputs = torch.cat([obs, act, hidden[0]], 1)
        return critic[1](inputs).squeeze(1), critic[2](inputs).squeeze(1)

    def gradient_step(self, data: ContextBatch) -> dict[str, Tensor]:
        """Makes one update."""
        config, batch = self.config, data.transitions
        before, after = data.history.entries[:-1], data.history.entries[1:]
        with torch.no_grad():
            noise = torch.randn(batch.act.shape, generator=self.generator) * config.target_noise
            noise = noise.clamp(-config.target_noise_clip, config.target_noise_clip)
            next_act = (self.act(self.slow_actor, batch.obs_next, after) + noise).clamp(-1, 1)
            first, second = self.value(self.slow_critic, batch.obs_next, next_act, after)
            target = batch.reward + config.gamma * (1 - batch.terminated) * torch.min(first, second)
        first, second = self.value(self.critic, batch.obs, batch.act, before)
        critic_loss = F.mse_loss(first, target) + F.mse_loss(second, target)
        self.critic_optim.zero_grad()
        critic_loss.backward()
        self.critic_optim.step()

        if self.updates % config.policy_every == 0:
            action = self.act(self.actor, batch.obs, before)
            actor_loss = -self.value(self.critic, batch.obs, action, before)[0].mean()
            self.actor_optim.zero_grad()
            actor_loss.backward()
            self.actor_optim.step()
            with torch.no_grad():
                for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
                    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
                        a.copy_((1 - config.tau) * a + config.tau * b)
            self.policy_value = -actor_loss.detach()
        self.updates += 1
        return {
            "critic_loss": critic_loss.detach(),
            "target_value": target.mean(),
            "policy_value": self.policy_value,
        }
