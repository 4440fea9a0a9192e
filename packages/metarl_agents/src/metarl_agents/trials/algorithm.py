"""On-policy algorithms over trials: Tianshou's update surface for what a `TrialPolicy` has taken in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from tianshou.algorithm.algorithm_base import OnPolicyAlgorithm
from tianshou.trainer import OnPolicyTrainerParams
from torch import Tensor

from metarl_agents.common.algorithm import MetaAlgorithm
from metarl_agents.common.threads import in_order
from metarl_agents.common.trainers import MetaOnPolicyTrainer, torch_optimiser
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.trials.collector import TrialCollector
from metarl_agents.trials.policy import TrialAgent, TrialPolicy

TTrialPolicy = TypeVar("TTrialPolicy", bound=TrialPolicy)


class MetaOnPolicyAlgorithm(MetaAlgorithm, OnPolicyAlgorithm[TTrialPolicy]):
    """Learns from the trials its policy has just been through.

    A subclass is one algorithm: it builds its networks and optimisers, says which batches of episodes
    a trial consists of, and writes its update rule in `outer_steps`.
    """

    @staticmethod
    @abstractmethod
    def batch_names(config: Any) -> Sequence[str]:
        """What the batches of episodes of a trial are called in metrics, in their order."""

    @abstractmethod
    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Gradient steps on what the policy has taken in; yields the scalars in `loss_names`."""

    def trial_agent(self) -> TrialAgent:
        """The trained agent as `metarl_envs.evaluation` drives it."""
        return TrialAgent(self.policy, observe_task=self.observe_task)

    def create_trainer(self, params: OnPolicyTrainerParams) -> MetaOnPolicyTrainer:
        """Tianshou's on-policy trainer."""
        return MetaOnPolicyTrainer(self, params)

    def collector(
        self,
        config: Any,
        env: GymVectorEnvAdapter,
        *,
        tasks: Sequence[Any],
        horizon: int,
        generator: np.random.Generator,
        buffer: None,
    ) -> TrialCollector:
        """A collector of trials of the algorithm's batches."""
        return TrialCollector(
            policy=self.policy,
            env=env,
            tasks=tasks,
            tasks_per_iteration=config.tasks_per_iteration,
            episodes_per_task=config.episodes_per_task,
            batch_names=self.batch_names(config),
            horizon=horizon,
            generator=generator,
        )

    @classmethod
    def trainer_params(
        cls, config: Any, collector: TrialCollector, shared: Mapping[str, Any]
    ) -> OnPolicyTrainerParams:
        """Parameters with which one epoch of Tianshou's trainer is one iteration."""
        return OnPolicyTrainerParams(**shared, collection_step_num_env_steps=1, batch_size=None)

    def _update_with_batch(self, batch: Any, batch_size: int | None, repeat: int) -> NoReturn:
        raise NotImplementedError("there is no replay buffer to update from; see outer_steps")


def step_on_parts(optimiser: Any, losses: Iterable[Tensor]) -> None:
    """One step of an optimiser on the sum of losses.

    Tianshou's own step takes one loss, whose graph would hold all of them at once; here each part's is
    freed before the next is built.
    """
    adam = torch_optimiser(optimiser)
    adam.zero_grad()
    for loss in losses:
        torch.autograd.backward(loss)
    adam.step()


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
    adam = torch_optimiser(optimiser)
    parameters = [p for group in adam.param_groups for p in group["params"]]

    def work(chunk: slice) -> tuple[tuple[Tensor | None, ...], Tensor]:
        value, found = loss(chunk)
        return torch.autograd.grad(value, parameters, allow_unused=True), found

    adam.zero_grad()
    sums = []
    for gradients, found in in_order(work, rows, threads):
        sums.append(found)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    adam.step()
    return torch.stack(sums).sum(0)


def adaptation_batches(inner_steps: int) -> tuple[str, ...]:
    """Names of a trial's batches: before any step, after each but the last, and after all of them."""
    return ("before", *("between",) * (inner_steps - 1), "after")
