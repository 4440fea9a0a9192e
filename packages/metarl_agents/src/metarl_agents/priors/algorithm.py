"""What the multi-task agents share: chunks of episodes, use of each step, target copies, evaluation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from tianshou.data import CollectStats
from tianshou.trainer import OffPolicyTrainerParams
from torch import Tensor, nn

from metarl_agents.common.config import ConfigError
from metarl_agents.common.context import Context
from metarl_agents.common.seeding import numpy_stream
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.optimisers import adam
from metarl_agents.networks.targets import PolyakTarget
from metarl_agents.priors.config import MultiTaskConfig
from metarl_agents.priors.networks import MultiTaskNetworks
from metarl_agents.priors.policy import (
    LOG_MU,
    ActorPolicy,
    MultiTaskPolicy,
    PriorAgent,
    TrainedTasksAgent,
)
from metarl_agents.priors.samples import samples
from metarl_agents.priors.tasks import TrainingTasks
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.chunks import draw_chunks
from metarl_agents.replay.collector import MetaCollector, Schedule, Stage


class ChunkBatch(NamedTuple):
    """B chunks of S steps, the data of one gradient step.

    Attributes:
        obs: observations (B, S + 1, O); the last one follows the last step.
        act: actions (B, S, A) as they were chosen, not clipped.
        reward: rewards (B, S).
        discount: (B, S), 0 where the episode ended in a terminal state, else 1.
        log_mu: log-densities (B, S) of the actions under the policy that chose them.
        valid: (B, S) bool, false beyond the end of the episode.
        task: task inputs (B, D).
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    discount: Tensor
    log_mu: Tensor
    valid: Tensor
    task: Tensor


class MultiTaskAlgorithm(MetaOffPolicyAlgorithm[MultiTaskPolicy]):
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
        # A number that no iteration reaches: losses are reported as means of an iteration.
        super().__init__(
            policy=policy,
            training_reward=config.training_reward,
            report_every=2**31,
            generator=generator,
        )
        self.config = config
        networks = policy.networks
        # Hard copies: a step of size 1 towards the networks.
        self.target = PolyakTarget(networks, tau=1.0)
        # Steps collected in iterations, and gradient steps taken. The number of gradient steps that are due
        # follows from both, so that no rounding adds up; both are part of the checkpoint.
        self.counters: Tensor
        self.register_buffer("counters", torch.zeros(2, dtype=torch.int64))
        factory = adam(config.learning_rate)

        def optimiser(network: nn.Module | None) -> Any:
            if network is None:
                return None
            return self._create_optimizer(network, factory, max_grad_norm=config.max_gradient_norm)

        self.critic_optim = optimiser(networks.critic)
        self.actor_optim = optimiser(networks.actor)
        self.prior_optim = optimiser(networks.prior)

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
        rows_BS, valid_BS = draw_chunks(buffer, tasks_B, self.config.chunk_length)
        # s_0, then the state after each step.
        obs_BSO = np.concatenate((buffer.obs.take(rows_BS[:, :1], 0), buffer.obs_next.take(rows_BS, 0)), 1)
        return ChunkBatch(
            self.tensor(obs_BSO),
            self.tensor(buffer.act.take(rows_BS, 0)),
            self.tensor(self.rewards(buffer).take(rows_BS)),
            self.tensor(1.0 - buffer.terminated.take(rows_BS).astype(np.float32)),
            self.tensor(buffer.info[LOG_MU].take(rows_BS)),
            self.tensor(valid_BS),
            self.policy.tasks(tasks_B),
        )

    # -- updates ----------------------------------------------------------------------------------

    @staticmethod
    def updates_per_iteration(config: Any) -> int:
        """Gradient steps of an iteration with the minimum number of steps; episodes may have more."""
        steps = config.tasks_per_iteration * config.steps_per_task
        updates: int = round(steps * config.learner_use / (config.batch_size * config.chunk_length))
        return max(1, updates)

    def gradient_steps(self, buffer: TaskReplayBuffer, collected: CollectStats) -> int:
        """As many as make the mean use of the collected steps `learner_use`, rounded down."""
        config = self.config
        self.counters[0] += collected.n_collected_steps
        steps, taken = (int(number) for number in self.counters)
        due = int(steps * config.learner_use / (config.batch_size * config.chunk_length))
        return due - taken

    def gradient_step(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of every network; every `target_period` steps, the target networks are copied."""
        result = self.losses(data)
        self.counters[1] += 1
        if int(self.counters[1]) % self.config.target_period == 0:
            self.target.follow()
        return result

    @abstractmethod
    def losses(self, data: ChunkBatch) -> dict[str, Tensor]:
        """One step of every network. Returns the scalars in `loss_names`."""

    def sample(self, distribution: Gaussian) -> Tensor:
        """Actions (B, S, K, A) in states (B, S), K as configured; see `samples`."""
        chunks, states, actions = distribution.mean.shape
        noise_BSKA = torch.randn(
            (chunks, states, self.config.action_samples, actions),
            generator=self.generator,
            device=self.device,
            dtype=distribution.mean.dtype,
        )
        return samples(distribution, noise_BSKA)

    @classmethod
    def trainer_params(
        cls, config: Any, collector: MetaCollector, shared: Mapping[str, Any]
    ) -> OffPolicyTrainerParams:
        """Parameters with which one epoch of Tianshou's trainer is one iteration."""
        fewest, _ = collector.steps_per_iteration()
        return OffPolicyTrainerParams(
            **shared,
            collection_step_num_env_steps=fewest,
            # `gradient_steps` decides.
            update_step_num_gradient_steps_per_sample=1.0,
            batch_size=config.batch_size,
        )

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
