"""On-policy algorithms over trials: Tianshou's update surface for what a `TrialPolicy` has taken in.

An update is work on pieces of tasks (`TrialPolicy.pieces`), whose results are summed in the order of the
tasks. The pieces are worked on by the threads of this process, or by actors, each of which has the data of
the tasks that it has simulated. The result is the same, bit for bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np
import torch
from tianshou.algorithm.algorithm_base import OnPolicyAlgorithm
from tianshou.trainer import OnPolicyTrainerParams
from torch import Tensor

from metarl_agents.common.algorithm import MetaAlgorithm
from metarl_agents.common.config import ConfigError
from metarl_agents.common.pool import Pool
from metarl_agents.common.threads import in_order
from metarl_agents.common.trainers import MetaOnPolicyTrainer, torch_optimiser
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.trials.collector import TrialCollector, Trials
from metarl_agents.trials.distributed import DistributedTrials, TrialWorker, Workers
from metarl_agents.trials.policy import TrialAgent, TrialPolicy

TTrialPolicy = TypeVar("TTrialPolicy", bound=TrialPolicy)

#: Least number of pieces into which the tasks of an iteration are divided, if there are as many tasks, so
#: that as many actors have work.
PIECES = 4


class MetaOnPolicyAlgorithm(MetaAlgorithm, OnPolicyAlgorithm[TTrialPolicy]):
    """Learns from the trials its policy has just been through.

    A subclass is one algorithm: it builds its networks and optimisers, says which batches of episodes
    a trial consists of, and writes its update rule in `outer_steps`.

    Attributes:
        workers: what `on_pieces` uses; None: this process.
        first_task: place in the iteration of the first task whose data this process has.
        tasks_of_iteration: number of tasks of an iteration in training; None: those whose data there are.
    """

    #: An iteration begins with a seed.
    keeps_environment: ClassVar[bool] = False
    config: Any
    optim: Any
    workers: Workers | None = None
    first_task: int = 0
    tasks_of_iteration: int | None = None

    @staticmethod
    @abstractmethod
    def batch_names(config: Any) -> Sequence[str]:
        """What the batches of episodes of a trial are called in metrics, in their order."""

    @abstractmethod
    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """Gradient steps on what the policy has taken in; yields the scalars in `loss_names`.

        The data of tasks are used in `on_pieces` only, because they may be elsewhere.
        """

    @classmethod
    def episodes_per_visit(cls, config: Any) -> int:
        """Number of episodes of a task that are learned from together."""
        return int(config.episodes_per_task)

    def divide(self, config: Any, horizon: int) -> list[slice]:
        """Fixes the pieces of the tasks of an iteration in training, and returns them.

        They depend on the configuration only.
        """
        tasks = config.tasks_per_iteration
        steps = self.episodes_per_visit(config) * horizon
        self.tasks_of_iteration = tasks
        self.policy.piece_tasks = max(1, min(self.policy.piece_steps // steps, tasks // PIECES))
        pieces: list[slice] = self.policy.pieces(tasks, steps)
        return pieces

    def on_pieces(self, work: str, *arguments: Any, keep: bool = False) -> list[Any]:
        """Results of a method for every piece of the tasks, in the order of the tasks.

        Args:
            work: name of the method. Its first argument is the piece, a slice of the tasks that the policy
                of this process has data of. It returns tensors, or tuples or lists of these.
            arguments: further arguments of the method.
            keep: whether the method stores something for later calls in the same iteration.
        """
        if self.workers is not None:
            return self.workers.on_pieces(work, arguments, keep)
        method = getattr(self, work)
        pieces = self.policy.pieces(*self.policy.taken)
        return in_order(lambda rows: method(rows, *arguments), pieces, self.threads)

    @property
    def num_tasks(self) -> int:
        """Number of tasks T over which means are taken, wherever their data are."""
        return self.tasks_of_iteration or self.policy.taken[0]

    # -- gradient steps on the sum of the losses of all pieces ---------------------------------------

    def loss(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The contribution of some tasks to the loss, and the contributions (R,) to what is reported."""
        raise NotImplementedError

    def loss_gradient(self, rows: slice) -> tuple[Sequence[Tensor | None], Tensor]:
        """Gradient of `loss` with respect to the parameters of `optim`, and what is reported."""
        value, found = self.loss(rows)
        return torch.autograd.grad(value, self.trained_parameters(), allow_unused=True), found

    def reported(self, rows: slice) -> Tensor:
        """What `loss` reports."""
        return self.loss(rows)[1].detach()

    def trained_parameters(self) -> list[Tensor]:
        """The parameters of `optim`."""
        return [p for group in torch_optimiser(self.optim).param_groups for p in group["params"]]

    def step_on_pieces(self) -> Tensor:
        """One step of `optim` on the sum of the losses; returns the sums (R,) of what is reported."""
        adam, parameters = torch_optimiser(self.optim), self.trained_parameters()
        adam.zero_grad()
        reported = []
        for gradients, found in self.on_pieces("loss_gradient"):
            reported.append(found)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        adam.step()
        return torch.stack(reported).sum(0)

    # -- what a run is assembled from ----------------------------------------------------------------

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
            trials=self.trials(config, env, horizon),
            env=env,
            tasks=tasks,
            tasks_per_iteration=config.tasks_per_iteration,
            batch_names=self.batch_names(config),
            generator=generator,
        )

    def trials(self, config: Any, env: GymVectorEnvAdapter, horizon: int, first_task: int = 0) -> Trials:
        """What runs trials of tasks in this process, of which the first has this place in the iteration."""
        self.divide(config, horizon)
        self.first_task = first_task
        return Trials(
            policy=self.policy,
            env=env,
            episodes_per_task=config.episodes_per_task,
            batch_names=self.batch_names(config),
            horizon=horizon,
            first_task=first_task,
        )

    def shares(self, config: Any, horizon: int, count: int) -> list[range]:
        """Whole pieces of tasks; see `MetaAlgorithm.shares`."""
        pieces = self.divide(config, horizon)
        if count > len(pieces):
            raise ConfigError(
                f"there must be at most {len(pieces)} actors, not {count}: the {config.tasks_per_iteration} "
                f"tasks of an iteration are learned from in {len(pieces)} pieces"
            )
        borders = [len(pieces) * number // count for number in range(count + 1)]
        return [range(pieces[a].start, pieces[b - 1].stop) for a, b in pairwise(borders)]

    @classmethod
    def simulations_of(cls, config: Any, share: range) -> int:
        """The rollouts of the tasks."""
        return len(share) * int(config.episodes_per_task)

    def worker(
        self, config: Any, env: GymVectorEnvAdapter, *, horizon: int, share: range, products: str
    ) -> TrialWorker:
        """See `MetaAlgorithm.worker`."""
        return TrialWorker(self, self.trials(config, env, horizon, share.start), products)

    def distribute(self, collector: TrialCollector, pool: Pool, shares: Sequence[range]) -> None:
        """See `MetaAlgorithm.distribute`."""
        self.workers = collector.trials = DistributedTrials(self, pool, shares)

    @classmethod
    def trainer_params(
        cls, config: Any, collector: TrialCollector, shared: Mapping[str, Any]
    ) -> OnPolicyTrainerParams:
        """Parameters with which one epoch of Tianshou's trainer is one iteration."""
        return OnPolicyTrainerParams(**shared, collection_step_num_env_steps=1, batch_size=None)

    def _update_with_batch(self, batch: Any, batch_size: int | None, repeat: int) -> NoReturn:
        raise NotImplementedError("there is no replay buffer to update from; see outer_steps")


def adaptation_batches(inner_steps: int) -> tuple[str, ...]:
    """Names of a trial's batches: before any step, after each but the last, and after all of them."""
    return ("before", *("between",) * (inner_steps - 1), "after")
