"""SAC over all training tasks at once, without any context: a negative control.

Haarnoja et al. 2018 (arXiv:1812.05905): two critics with target copies and a learned temperature. This is the
multi-task baseline of CRL (its section II-B, eqs. 1 to 4): one policy that receives only the
observation, trained on the transitions of all tasks together. The form with a value network and a fixed
temperature, used by PEARL, is a different algorithm (`metarl_agents.replay.soft_value`).

The state of Tianshou's own SAC does not include the temperature's optimiser, so a run could not be resumed.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.common.config import OffPolicyConfig
from metarl_agents.common.context import Context
from metarl_agents.networks.actors import TanhGaussianActor
from metarl_agents.networks.optimisers import adam
from metarl_agents.networks.perceptrons import TwinCritic
from metarl_agents.networks.targets import PolyakTarget
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.policy import ExploringPolicy, MemorylessAgent
from metarl_agents.replay.transitions import Transitions


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Configuration of SAC.

    Attributes:
        steps_per_task: minimum number of steps collected on each visited task; the last episode
            is completed, so 1 means one episode.
        initial_temperature: temperature before the first gradient step.
        target_entropy_per_action: target entropy per dimension of the action, in nats. The paper's
            value is -1.
    """

    hidden: tuple[int, ...] = (300, 300, 300)
    steps_per_task: int = 1000
    initial_temperature: float = 1.0
    target_entropy_per_action: float = -1.0

    may_be_negative: ClassVar[tuple[str, ...]] = ("target_entropy_per_action",)


class SACPolicy(ExploringPolicy):
    """Tanh-Gaussian actor pi(a|s). Conditionings: "random" and "exploring" (sampled actions)."""

    name = "SAC"

    def __init__(
        self,
        *,
        actor: TanhGaussianActor,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.actor = actor

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A)."""
        if self.at_random and not deterministic:
            return self.uniform_actions(len(observations_RO))
        return self.actor.act(observations_RO, self.generator, deterministic=deterministic)


class Temperature(nn.Module):
    """The positive entropy coefficient alpha, stored as its logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(initial).log())


class SAC(MetaOffPolicyAlgorithm[SACPolicy]):
    """Soft actor-critic with a learned temperature; see the module for the source."""

    config_class: ClassVar[type[SACConfig]] = SACConfig
    observe_task: ClassVar[bool] = False
    loss_names = ("critic_loss", "actor_loss", "temperature", "entropy")

    def __init__(
        self, *, policy: SACPolicy, critics: TwinCritic, config: SACConfig, generator: torch.Generator
    ) -> None:
        super().__init__(
            policy=policy,
            training_reward=config.training_reward,
            report_every=config.updates_per_iteration,
            generator=generator,
        )
        self.config = config
        self.critics = critics
        self.target_critics = PolyakTarget(critics, config.tau)
        self.temperature = Temperature(config.initial_temperature).to(self.device)
        self.target_entropy = config.target_entropy_per_action * policy.action_space.shape[0]
        factory = adam(config.learning_rate)
        self.critic_optim = self._create_optimizer(critics, factory)
        self.actor_optim = self._create_optimizer(policy.actor, factory)
        self.temperature_optim = self._create_optimizer(self.temperature, factory)

    @classmethod
    def from_config(
        cls,
        config: SACConfig,
        context: Context,
    ) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        observations, actions = context.observations, context.actions
        weights = context.weights()
        policy = SACPolicy(
            actor=TanhGaussianActor(observations, config.hidden, actions, generator=weights),
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )
        critics = TwinCritic(observations + actions, config.hidden, generator=weights)
        return cls(
            policy=policy.to(context.device),
            critics=critics.to(context.device),
            config=config,
            generator=context.stream("update"),
        )

    @staticmethod
    def schedule(config: SACConfig) -> Schedule:
        """Random actions on every task, then episodes with sampled actions."""
        return Schedule(
            initial=(Stage(config.initial_steps, "random", to_context=False),),
            iteration=(Stage(config.steps_per_task, "exploring", to_context=False),),
        )

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> Transitions:
        """Transitions drawn uniformly from all tasks' data."""
        return self.transitions(buffer, buffer.sample_indices(batch_size))

    def gradient_step(self, data: Transitions) -> dict[str, Tensor]:
        """One step of critics, actor and temperature, then of the target critics."""
        config = self.config
        alpha = self.temperature.log.detach().exp()
        # y = r + gamma (1 - d) (min Q'(s', a') - alpha log pi(a'|s')), a' ~ pi(.|s').
        with torch.no_grad():
            next_action_BA, next_log_prob_B, _, _ = self.policy.actor.rsample(data.obs_next, self.generator)
            next_value_B = self.target_critics.network.minimum(torch.cat((data.obs_next, next_action_BA), -1))
            soft_value_B = next_value_B - alpha * next_log_prob_B
            target_B = data.reward + config.gamma * (1.0 - data.terminated) * soft_value_B
        first_B, second_B = self.critics(torch.cat((data.obs, data.act), -1))
        critic_loss = (first_B - target_B).square().mean() + (second_B - target_B).square().mean()
        self.critic_optim.step(critic_loss)

        # L_pi = mean(alpha log pi(a|s) - min Q(s, a)), reparameterised; the critics get no gradient.
        action_BA, log_prob_B, _, _ = self.policy.actor.rsample(data.obs, self.generator)
        self.critics.requires_grad_(False)
        value_B = self.critics.minimum(torch.cat((data.obs, action_BA), -1))
        self.critics.requires_grad_(True)
        actor_loss = (alpha * log_prob_B - value_B).mean()
        self.actor_optim.step(actor_loss)

        # J(alpha) = mean log alpha (-log pi - H), CRL's eq. 4.
        surplus = -log_prob_B.detach().mean() - self.target_entropy
        self.temperature_optim.step(self.temperature.log * surplus)
        self.target_critics.follow()
        return {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "temperature": alpha,
            "entropy": -log_prob_B.mean(),
        }

    def trial_agent(self) -> MemorylessAgent:
        """The trained agent for `metarl_envs.evaluation`."""
        return MemorylessAgent(self.policy)
