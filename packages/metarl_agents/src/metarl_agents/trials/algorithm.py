"""On-policy algorithms over trials: Tianshou's update surface for what a `TrialPolicy` has taken in."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from tianshou.algorithm.algorithm_base import OnPolicyAlgorithm, TrainingStats
from tianshou.trainer import OnPolicyTrainer, OnPolicyTrainerParams
from torch import Tensor

from metarl_agents.common.run_state import MetaTrainingStats, RunState
from metarl_agents.common.threads import in_order
from metarl_agents.trials.policy import TrialAgent, TrialPolicy

TTrialPolicy = TypeVar("TTrialPolicy", bound=TrialPolicy)


class TrialTrainer(OnPolicyTrainer):  # type: ignore[misc]
    """Tianshou's on-policy trainer, whose update reports every gradient step."""

    def _update_step(self, collect_stats: Any = None) -> TrainingStats:
        algorithm = self.algorithm
        stats: TrainingStats = MetaTrainingStats()
        start = time.perf_counter()
        for losses in algorithm.outer_steps():
            stats = MetaTrainingStats(losses=algorithm.means.add(losses))
            stats.train_time = time.perf_counter() - start
            self._policy_update_time += stats.train_time
            self._update_moving_avg_stats_and_log_update_data(stats)
            start = time.perf_counter()
        return stats


class MetaOnPolicyAlgorithm(RunState, OnPolicyAlgorithm[TTrialPolicy]):  # type: ignore[misc]
    """Learns from the trials its policy has just been through.

    A subclass is one algorithm: it builds its networks and optimisers, says which batches of episodes
    a trial consists of, and writes its update rule in `outer_steps`.
    """

    #: Whether the policy observes the task.
    observe_task: ClassVar[bool] = False
    needs_replay: ClassVar[bool] = False
    #: Threads that an update shares its tasks among; nothing that comes out depends on it.
    threads: int = 1

    @staticmethod
    @abstractmethod
    def batch_names(config: Any) -> Sequence[str]:
        """What the batches of episodes of a trial are called in metrics, in their order."""

    @staticmethod
    @abstractmethod
    def steps_per_update(config: Any) -> int:
        """Gradient steps of one iteration."""

    @abstractmethod
    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Gradient steps on what the policy has taken in; yields the scalars in `loss_names`."""

    def trial_agent(self) -> TrialAgent:
        """The trained agent as `metarl_envs.evaluation` drives it."""
        return TrialAgent(self.policy, observe_task=self.observe_task)

    def create_trainer(self, params: OnPolicyTrainerParams) -> OnPolicyTrainer:
        """Tianshou's on-policy trainer."""
        return TrialTrainer(self, params)

    def _update_with_batch(self, batch: Any, batch_size: int | None, repeat: int) -> NoReturn:
        raise NotImplementedError("there is no replay buffer to update from; see outer_steps")


def step_on_parts(optimiser: Any, losses: Iterable[Tensor]) -> None:
    """One step of an optimiser on the sum of losses.

    Tianshou's own step takes one loss, whose graph would hold all of them at once; here each part's is
    freed before the next is built.
    """
    optimiser._optim.zero_grad()
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    optimiser._optim.step()


def step_on_tasks(
    optimiser: Any, loss: Callable[[slice], tuple[Tensor, Tensor]], rows: Iterable[slice], threads: int
) -> Tensor:
    """One step of an optimiser on the sum of the losses of chunks of tasks.

    Args:
        optimiser: Tianshou's.
        loss: the loss of some tasks, and what is reported of them (R,).
        rows: the chunks.
        threads: threads the chunks are shared among.

    Returns:
        The sums (R,) of what is reported.
    """
    parameters = [p for group in optimiser._optim.param_groups for p in group["params"]]

    def work(chunk: slice) -> tuple[tuple[Tensor | None, ...], Tensor]:
        value, found = loss(chunk)
        return torch.autograd.grad(value, parameters, allow_unused=True), found

    optimiser._optim.zero_grad()
    sums = []
    for gradients, found in in_order(work, rows, threads):
        sums.append(found)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    optimiser._optim.step()
    return torch.stack(sums).sum(0)


def adaptation_batches(inner_steps: int) -> tuple[str, ...]:
    """Names of a trial's batches: before any step, after each but the last, and after all of them."""
    return ("before", *("between",) * (inner_steps - 1), "after")
