"""Oracle: soft actor-critic that observes the task, an upper reference for agents that infer it.

The losses are those of SAC with a value network (Haarnoja et al. 2018, arXiv:1801.01290) as PEARL uses
them, over all training tasks at once; the state is the observation with the task vector appended.
It is a bound for one shared policy, not for policies trained per task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.context import Context
from metarl_agents.networks.actors import TanhGaussianActor
from metarl_agents.networks.optimisers import adam
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.policy import MemorylessAgent, MetaPolicy
from metarl_agents.replay.soft_value import SoftValueConfig, SoftValueNetworks
from metarl_agents.replay.transitions import Transitions


@dataclass(frozen=True)
class OracleConfig(SoftValueConfig):
    """Configuration of the oracle.

    Attributes:
        steps_per_task: steps collected on each visited task.
    """

    steps_per_task: int = 1000


class OraclePolicy(MetaPolicy):
    """Actor pi(a|s) over observations that contain the task. Its one conditioning is "task"."""

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

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Does nothing, because every observation contains the task."""
        if conditioning != "task":
            raise ValueError(f"the conditioning of the oracle must be 'task', not {conditioning!r}")

    def prepared(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """Does nothing."""

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A)."""
        return self.actor.act(observations_RO, self.generator, deterministic=deterministic)


class Oracle(MetaOffPolicyAlgorithm[OraclePolicy]):
    """Task-conditioned soft actor-critic; see the module for the source."""

    config_class: ClassVar[type[OracleConfig]] = OracleConfig
    observe_task: ClassVar[bool] = True
    loss_names = ("critic_loss", "value_loss", "actor_loss", "entropy")

    def __init__(
        self,
        *,
        policy: OraclePolicy,
        networks: SoftValueNetworks,
        config: OracleConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            policy=policy,
            training_reward=config.training_reward,
            report_every=config.updates_per_iteration,
            generator=generator,
        )
        self.networks = networks
        self.config = config
        factory = adam(config.learning_rate)
        self.critic_optim = self._create_optimizer(networks.critics, factory)
        self.value_optim = self._create_optimizer(networks.value, factory)
        self.actor_optim = self._create_optimizer(policy.actor, factory)

    @classmethod
    def from_config(
        cls,
        config: OracleConfig,
        context: Context,
    ) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        observations, actions = context.observations, context.actions
        weights = context.weights()
        policy = OraclePolicy(
            actor=TanhGaussianActor(
                observations,
                config.hidden,
                actions,
                generator=weights,
                released=config.released_weights,
            ),
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )
        networks = SoftValueNetworks(
            observations,
            actions,
            config.hidden,
            tau=config.tau,
            gamma=config.gamma,
            reward_scale=config.reward_scale,
            generator=weights,
            released=config.released_weights,
        )
        return cls(
            policy=policy.to(context.device),
            networks=networks.to(context.device),
            config=config,
            generator=context.stream("update"),
        )

    @staticmethod
    def schedule(config: OracleConfig) -> Schedule:
        """Episodes of the visited tasks, in one stage."""
        return Schedule(
            initial=(Stage(config.initial_steps, "task", to_context=False),),
            iteration=(Stage(config.steps_per_task, "task", to_context=False),),
        )

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> Transitions:
        """Transitions of `meta_batch` tasks, drawn uniformly with replacement."""
        tasks_T = buffer.draw_tasks(self.config.meta_batch)
        return self.transitions(buffer, buffer.sample_tasks_rows(tasks_T, batch_size))

    def gradient_step(self, data: Transitions) -> dict[str, Tensor]:
        """One step of every network: critics, value network, its target copy, actor."""
        networks = self.networks
        obs_BO, act_BA, reward_B, terminated_B, next_BO = data.flat()
        target_B = networks.critic_target(reward_B, terminated_B, next_BO)
        critic_loss = networks.critic_loss(obs_BO, act_BA, target_B)
        self.critic_optim.step(critic_loss)

        sample = self.policy.actor.rsample(obs_BO, self.generator)
        losses = networks.actor_losses(
            obs_BO,
            sample,
            mean_penalty=self.config.mean_penalty,
            log_std_penalty=self.config.log_std_penalty,
        )
        self.value_optim.step(losses.value)
        networks.target_value.follow()
        self.actor_optim.step(losses.actor)
        return {
            "critic_loss": critic_loss,
            "value_loss": losses.value,
            "actor_loss": losses.actor,
            "entropy": -losses.log_prob.mean(),
        }

    def trial_agent(self) -> MemorylessAgent:
        """The trained agent for `metarl_envs.evaluation`."""
        return MemorylessAgent(self.policy, observe_task=True)
