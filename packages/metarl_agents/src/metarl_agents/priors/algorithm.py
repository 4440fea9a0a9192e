"""Multi-task agents: training tasks as inputs, their networks, and what acts in an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch

from metarl_agents.common.config import ConfigError
from metarl_agents.common.context import Context
from metarl_agents.common.seeding import numpy_stream
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.priors.config import MultiTaskConfig
from metarl_agents.priors.learner import LOG_MU, ChunkBatch, ChunkLearner
from metarl_agents.priors.networks import MultiTaskNetworks
from metarl_agents.priors.policy import ActorPolicy, MultiTaskPolicy, PriorAgent, TrainedTasksAgent
from metarl_agents.priors.tasks import TrainingTasks
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.collector import MetaCollector, Schedule, Stage


class MultiTaskAlgorithm(ChunkLearner[MultiTaskPolicy]):
    """Base class of the multi-task agents; a subclass implements the losses in `losses`.

    Args:
        policy: the acting policy, with all networks.
        config: the configuration.
        generator: random generator of the updates, on the device of the networks.
    """

    config_class: ClassVar[type[MultiTaskConfig]]
    config: Any
    #: The acting policy.
    policy_class: ClassVar[type[MultiTaskPolicy]] = ActorPolicy
    #: Whether the agent has a behaviour prior, and a policy beside it.
    has_prior: ClassVar[bool]
    has_actor: ClassVar[bool] = True

    def __init__(self, *, policy: MultiTaskPolicy, config: Any, generator: torch.Generator) -> None:
        networks = policy.networks
        super().__init__(policy=policy, config=config, generator=generator)
        self.critic_optim = self.optimiser(networks.critic)
        self.actor_optim = self.optimiser(networks.actor)
        self.prior_optim = self.optimiser(networks.prior)

    @classmethod
    def from_config(cls, config: Any, context: Context) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        tasks = TrainingTasks(context, config.descriptor, config.train_tasks)
        networks = MultiTaskNetworks(config, context, tasks, actor=cls.has_actor, prior=cls.has_prior)
        policy = cls.policy_class(
            networks=networks.to(context.device),
            tasks=tasks.to(context.device),
            config=config,
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))

    # -- data -------------------------------------------------------------------------------------

    @staticmethod
    def schedule(config: Any) -> Schedule:
        """Episodes of the policy on every task, then on the visited ones."""
        return Schedule(
            initial=(Stage(config.initial_steps, "task", to_context=False),),
            iteration=(Stage(config.steps_per_task, "task", to_context=False),),
        )

    @classmethod
    def replay_buffer(cls, config: Any, context: Context) -> TaskReplayBuffer:
        """An empty buffer with a column for the log-densities of actions."""
        return TaskReplayBuffer(
            len(config.train_tasks) or context.num_tasks,
            config.capacity_per_task,
            context.observations,
            context.actions,
            generator=numpy_stream(context.seed, "buffer"),
            info_keys=(*config.info_keys, LOG_MU),
        )

    def collector(
        self,
        config: Any,
        env: GymVectorEnvAdapter,
        *,
        tasks: Sequence[Any],
        horizon: int,
        generator: np.random.Generator,
        buffer: TaskReplayBuffer,
    ) -> MetaCollector:
        """A collector of the training tasks that the configuration selects."""
        chosen = [tasks[k] for k in self.policy.tasks.chosen]
        return super().collector(
            config, env, tasks=chosen, horizon=horizon, generator=generator, buffer=buffer
        )

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> ChunkBatch:
        """Chunks of tasks drawn uniformly with replacement."""
        return self.batch(buffer, buffer.draw_tasks(batch_size))

    def batch(self, buffer: TaskReplayBuffer, tasks_B: IntArray) -> ChunkBatch:
        """A chunk of each of these tasks."""
        return self.chunks(buffer, tasks_B, self.policy.tasks(tasks_B))

    def trial_agent(self) -> TrainedTasksAgent | PriorAgent:
        """The trained agent for `metarl_envs.evaluation`: the policy or the prior, see `act`.

        Raises:
            ConfigError: when the agent has no prior to act.
        """
        if self.config.act == "policy":
            return TrainedTasksAgent(self.policy)
        if self.policy.networks.prior is None:
            raise ConfigError(
                "act=prior needs a behaviour prior, and this agent has none; it can only act=policy"
            )
        return PriorAgent(self.policy)
