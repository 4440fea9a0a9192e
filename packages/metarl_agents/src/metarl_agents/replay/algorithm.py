"""Off-policy algorithms that train on meta-batches, with Tianshou's update interface."""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm
from tianshou.data import CollectStats, ReplayBuffer
from tianshou.trainer import OffPolicyTrainerParams
from torch import Tensor

from metarl_agents.common.algorithm import MetaAlgorithm, MetaTrainingStats
from metarl_agents.common.config import ConfigError
from metarl_agents.common.context import Context
from metarl_agents.common.pool import Pool
from metarl_agents.common.seeding import numpy_stream
from metarl_agents.common.trainers import MetaOffPolicyTrainer
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.collector import MetaCollector, Schedule
from metarl_agents.replay.distributed import DistributedRollouts, RolloutWorker
from metarl_agents.replay.policy import MetaPolicy
from metarl_agents.replay.rollouts import Rollouts
from metarl_agents.replay.transitions import Transitions

TMetaPolicy = TypeVar("TMetaPolicy", bound=MetaPolicy)


class MetaOffPolicyAlgorithm(MetaAlgorithm, OffPolicyAlgorithm[TMetaPolicy]):
    """Draws batches from a `TaskReplayBuffer` and hands them to one gradient step.

    A subclass is one algorithm: it builds its networks and optimisers, draws the data of a step in
    `draw`, and implements its update rule in `gradient_step`.

    Args:
        policy: the policy.
        training_reward: "reward", or the info key that replaces the reward in the losses.
        report_every: gradient steps per report of mean losses.
        generator: random generator of the updates, on the device of the networks.
    """

    #: Columns of the replay buffer that the policy fills.
    stored_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        policy: TMetaPolicy,
        training_reward: str,
        report_every: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(policy=policy)
        self.training_reward = training_reward
        self.begin_run(report_every, generator)

    @abstractmethod
    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> Any:
        """The data of one gradient step, as tensors on the algorithm's device."""

    @abstractmethod
    def gradient_step(self, data: Any) -> dict[str, Tensor]:
        """One update of every network. Returns the scalars in `loss_names`, on the device."""

    @staticmethod
    @abstractmethod
    def schedule(config: Any) -> Schedule:
        """What is collected in an iteration, and before the first."""

    def gradient_steps(self, buffer: TaskReplayBuffer, collected: CollectStats) -> int | None:
        """Gradient steps after a collection, or 0; None: the trainer's steps per sample apply."""
        return None

    def begin_updates(self) -> None:
        """Called after a collection, before its gradient steps."""

    def rewards(self, buffer: TaskReplayBuffer) -> NDArray[Any]:
        """The column of the buffer that the losses use as reward."""
        used = self.training_reward
        rewards: NDArray[Any] = buffer.rew if used == "reward" else buffer.info[used]
        return rewards

    def transitions(self, buffer: TaskReplayBuffer, rows: IntArray) -> Transitions:
        """The transitions in these rows of the buffer; leading axes have the shape of the rows."""
        rewards = self.rewards(buffer)
        return Transitions(
            self.tensor(buffer.obs.take(rows, 0)),
            self.tensor(buffer.act.take(rows, 0)),
            self.tensor(rewards.take(rows)),
            self.tensor(buffer.terminated.take(rows).astype(np.float32)),
            self.tensor(buffer.obs_next.take(rows, 0)),
        )

    # -- Tianshou's interface -------------------------------------------------------------------

    def update(self, buffer: ReplayBuffer, sample_size: int | None) -> MetaTrainingStats:
        """One gradient step on `sample_size` transitions, or as many per task if it draws tasks.

        Raises:
            RuntimeError: outside a training step, as in every Tianshou algorithm.
            TypeError: when the buffer is not a `TaskReplayBuffer`.
            ValueError: when no sample size is given.
        """
        if not self.policy.is_within_training_step:
            raise RuntimeError(
                "update() was called outside a training step; use a trainer, or "
                "tianshou.utils.torch_utils.policy_within_training_step"
            )
        if not isinstance(buffer, TaskReplayBuffer):
            raise TypeError(f"expected a TaskReplayBuffer, not {type(buffer).__name__}")
        if not sample_size:
            raise ValueError("sample_size must be a positive number of transitions")
        start = time.perf_counter()
        stats = self._update_with_batch(self.draw(buffer, sample_size))
        stats.train_time = time.perf_counter() - start
        return stats

    def _update_with_batch(self, batch: Any) -> MetaTrainingStats:
        return MetaTrainingStats(losses=self.means.add(self.gradient_step(batch)))

    def create_trainer(self, params: OffPolicyTrainerParams) -> MetaOffPolicyTrainer:
        """Tianshou's off-policy trainer."""
        return MetaOffPolicyTrainer(self, params)

    # -- what a run is assembled from -------------------------------------------------------------

    @staticmethod
    def updates_per_iteration(config: Any) -> int:
        """As configured."""
        return int(config.updates_per_iteration)

    @classmethod
    def replay_buffer(cls, config: Any, context: Context) -> TaskReplayBuffer:
        """An empty buffer with the run's own stream of random numbers."""
        return TaskReplayBuffer(
            context.num_tasks,
            config.capacity_per_task,
            context.observations,
            context.actions,
            generator=numpy_stream(context.seed, "buffer"),
            info_keys=(*config.info_keys, *cls.stored_columns),
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
        """A collector of the algorithm's schedule."""
        return MetaCollector(
            policy=self.policy,
            env=env,
            buffer=buffer,
            schedule=self.schedule(config),
            tasks=tasks,
            tasks_per_iteration=config.tasks_per_iteration,
            horizon=horizon,
            generator=generator,
        )

    def shares(self, config: Any, horizon: int, count: int) -> list[range]:
        """Every `count`-th simulation, because rollouts have the first ones; see `MetaAlgorithm.shares`."""
        if count > config.num_simulations:
            raise ConfigError(
                f"there must be at most {config.num_simulations} actors, not {count}: there are "
                f"num_simulations={config.num_simulations} simulations"
            )
        return [range(number, config.num_simulations, count) for number in range(count)]

    @classmethod
    def simulations_of(cls, config: Any, share: range) -> int:
        """Themselves."""
        return len(share)

    def worker(
        self, config: Any, env: GymVectorEnvAdapter, *, horizon: int, share: range, products: str
    ) -> RolloutWorker:
        """See `MetaAlgorithm.worker`."""
        return RolloutWorker(
            Rollouts(
                self.policy,
                env,
                simulations=config.num_simulations,
                horizon=horizon,
                info_keys=(*config.info_keys, *self.policy.column_names),
                rows=share,
            )
        )

    def distribute(self, collector: MetaCollector, pool: Pool, shares: Sequence[range]) -> None:
        """See `MetaAlgorithm.distribute`; updates stay in this process."""
        env, staged = collector.adapter, collector.rollouts.staged
        collector.rollouts = DistributedRollouts(self.policy, env, pool, shares, staged)

    @classmethod
    def trainer_params(
        cls, config: Any, collector: MetaCollector, shared: Mapping[str, Any]
    ) -> OffPolicyTrainerParams:
        """Parameters with which one epoch of Tianshou's trainer is one iteration."""
        fewest, usual = collector.steps_per_iteration()
        return OffPolicyTrainerParams(
            **shared,
            collection_step_num_env_steps=fewest,
            update_step_num_gradient_steps_per_sample=cls.updates_per_iteration(config) / usual,
            batch_size=config.batch_size,
        )
