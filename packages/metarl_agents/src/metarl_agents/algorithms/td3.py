"""TD3 over all training tasks at once, without any context: a negative control.

Fujimoto, van Hoof, Meger 2018 (arXiv:1802.09477), in the form with which Meta-Q-Learning (Fakoor et al. 2020,
arXiv:1910.00125, Fig. 2) is compared: one policy and two critics that receive only the observation, trained
on the transitions of all tasks together. If the task is hidden, it can only learn the policy that is best
on average.

In Tianshou's own TD3, target actions can exceed the action bounds, and stored exploration actions can differ
from those taken; both are clipped here.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.context import Context
from metarl_agents.networks.actors import DeterministicActor
from metarl_agents.networks.optimisers import adam
from metarl_agents.networks.perceptrons import TwinCritic
from metarl_agents.networks.targets import PolyakTarget
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.deterministic_value import (
    DelayedAlgorithm,
    DeterministicConfig,
    policy_loss,
    smoothed_action,
    twin_critic,
    twin_loss,
    twin_target,
)
from metarl_agents.replay.policy import ExploringPolicy, MemorylessAgent
from metarl_agents.replay.transitions import Transitions


@dataclass(frozen=True)
class TD3Config(DeterministicConfig):
    """Configuration of TD3; the defaults are those of MQL's released code for MetaHalfCheetah-Vel."""


class TD3Policy(ExploringPolicy):
    """Deterministic actor pi(s). Conditionings: "random" and "exploring" (with noise)."""

    name = "TD3"

    def __init__(
        self,
        *,
        actor: DeterministicActor,
        exploration_noise: float,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.actor = actor
        self.exploration_noise = exploration_noise

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A), clipped to [-1, 1] after the noise."""
        if self.at_random and not deterministic:
            return self.uniform_actions(len(observations_RO))
        actions_RA: Tensor = self.actor(observations_RO)
        return actions_RA if deterministic else self.with_noise(actions_RA, self.exploration_noise)


class TD3(DelayedAlgorithm[TD3Policy]):
    """Twin delayed deterministic policy gradient; see the module for the source."""

    config_class: ClassVar[type[TD3Config]] = TD3Config
    config: TD3Config

    def __init__(
        self, *, policy: TD3Policy, critics: TwinCritic, config: TD3Config, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy, config=config, generator=generator)
        self.critics = critics
        self.target_critics = PolyakTarget(critics, config.tau)
        self.target_actor = PolyakTarget(policy.actor, config.tau)
        factory = adam(config.learning_rate)
        self.critic_optim = self._create_optimizer(critics, factory)
        self.actor_optim = self._create_optimizer(policy.actor, factory)

    @classmethod
    def from_config(
        cls,
        config: TD3Config,
        context: Context,
    ) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        observations, actions = context.observations, context.actions
        weights = context.weights()
        policy = TD3Policy(
            actor=DeterministicActor(observations, config.hidden, actions, generator=weights),
            exploration_noise=config.exploration_noise,
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )
        critics = twin_critic(observations + actions, config.hidden, generator=weights)
        return cls(
            policy=policy.to(context.device),
            critics=critics.to(context.device),
            config=config,
            generator=context.stream("update"),
        )

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> Transitions:
        """Transitions drawn uniformly from all tasks' data."""
        return self.transitions(buffer, buffer.sample_indices(batch_size))

    def gradient_step(self, data: Transitions) -> dict[str, Tensor]:
        """One step of the critics and, in every `policy_every`-th call, of all other networks."""
        config = self.config
        # y = r + gamma (1 - d) min Q'(s', clip(pi'(s') + clip(eps))).
        with torch.no_grad():
            next_action_BA = smoothed_action(
                self.target_actor(data.obs_next),
                config.target_noise,
                config.target_noise_clip,
                self.generator,
            )
            next_value_B = self.target_critics.network.minimum(torch.cat((data.obs_next, next_action_BA), -1))
            target_B = twin_target(data.reward, data.terminated, next_value_B, config.gamma)
        critic_loss = twin_loss(self.critics, torch.cat((data.obs, data.act), -1), target_B)
        self.critic_optim.step(critic_loss)

        if self.updates % config.policy_every == 0:
            # Deterministic policy gradient through the first critic, then all target networks.
            actor_loss = policy_loss(self.critics, torch.cat((data.obs, self.policy.actor(data.obs)), -1))
            self.actor_optim.step(actor_loss)
            self.target_critics.follow()
            self.target_actor.follow()
            self.policy_value = -actor_loss.detach()
        self.updates += 1
        return {
            "critic_loss": critic_loss,
            "target_value": target_B.mean(),
            "policy_value": self.policy_value,
        }

    def trial_agent(self) -> MemorylessAgent:
        """The trained agent for `metarl_envs.evaluation`."""
        return MemorylessAgent(self.policy)
