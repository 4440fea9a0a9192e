"""Off-policy algorithms that train on meta-batches, with Tianshou's update interface."""

import time
from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm, TrainingStats
from tianshou.data import CollectStats, ReplayBuffer
from tianshou.trainer import OffPolicyTrainer, OffPolicyTrainerParams
from torch import Tensor

from metarl_agents.common.run_state import MetaTrainingStats, RunState
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.policy import MetaPolicy
from metarl_agents.replay.transitions import Transitions

TMetaPolicy = TypeVar("TMetaPolicy", bound=MetaPolicy)


class QuietOffPolicyTrainer(OffPolicyTrainer):  # type: ignore[misc]
    """Tianshou's trainer without its progress bars.

    Tianshou 2.0.1 shows the bar of the gradient steps even if `show_progress` is false.
    """

    @property
    def _pbar(self) -> Any:
        shown = super()._pbar

        def bar(*arguments: Any, **options: Any) -> Any:
            return shown(*arguments, **(options | {"disable": True}))

        return bar

    def _update_step(self, collect_stats: Any) -> TrainingStats:
        params, algorithm = self.params, self.algorithm
        usual = params.update_step_num_gradient_steps_per_sample
        collected = collect_stats.n_collected_steps
        wanted = algorithm.gradient_steps(params.training_collector.buffer, collect_stats)
        algorithm.begin_updates()
        try:
            if wanted is not None:
                params.update_step_num_gradient_steps_per_sample = wanted / collected
            return super()._update_step(collect_stats)
        finally:
            params.update_step_num_gradient_steps_per_sample = usual


class MetaOffPolicyAlgorithm(RunState, OffPolicyAlgorithm[TMetaPolicy]):  # type: ignore[misc]
    """Draws batches from a `TaskReplayBuffer` and passes each to one gradient step.

    A subclass is one algorithm: it builds its networks and optimisers, draws the data of a step in
    `draw`, and implements its update rule in `gradient_step`.

    Args:
        policy: the policy.
        training_reward: "reward", or the info key that replaces the reward in the losses.
        report_every: gradient steps per report of mean losses.
        generator: random generator of the updates, on the device of the networks.
    """

    #: Whether `trial_agent` requires the replay buffer.
    needs_replay: ClassVar[bool] = False

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

    def gradient_steps(self, buffer: TaskReplayBuffer, collected: CollectStats) -> int | None:
        """Number of gradient steps after a collection; None: the trainer's steps per sample apply."""
        return None

    def begin_updates(self) -> None:
        """Called after a collection, before its gradient steps."""

    def transitions(self, buffer: TaskReplayBuffer, rows: IntArray) -> Transitions:
        """The transitions in these rows of the buffer; leading axes have the shape of the rows."""
        rewards = buffer.rew if self.training_reward == "reward" else buffer.info[self.training_reward]
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

    def create_trainer(self, params: OffPolicyTrainerParams) -> OffPolicyTrainer:
        """Tianshou's off-policy trainer."""
        return QuietOffPolicyTrainer(self, params)
