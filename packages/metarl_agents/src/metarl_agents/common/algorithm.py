"""What a training run needs of an algorithm, whichever way it learns."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Algorithm, TrainingStats
from torch import Tensor

from metarl_agents.common.collector import TaskCollector
from metarl_agents.common.config import RunConfig
from metarl_agents.common.context import Context
from metarl_agents.common.pool import Pool
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter


class RunningMeans:
    """Sums named scalars on their device and returns means after every `every` additions.

    Reading a loss as a Python number makes the CPU wait for an accelerator; here this happens only
    once per report.
    """

    def __init__(self, names: tuple[str, ...], every: int, device: torch.device) -> None:
        self.names = names
        self.every = every
        self.count = 0
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)

    def add(self, values: Mapping[str, Tensor]) -> dict[str, float] | None:
        """Adds the values of one step; every `every`-th call returns the means and starts again."""
        self.sums += torch.stack([values[name].detach() for name in self.names])
        self.count += 1
        return self.take() if self.count >= self.every else None

    def take(self) -> dict[str, float]:
        """Returns the means since the last report and starts again; empty if nothing was added."""
        if not self.count:
            return {}
        means = dict(zip(self.names, (self.sums / self.count).tolist(), strict=True))
        self.sums.zero_()
        self.count = 0
        return means


@dataclass(kw_only=True)
class MetaTrainingStats(TrainingStats):
    """Training statistics of one gradient step.

    Attributes:
        losses: means since the last report, or None between reports.
    """

    losses: dict[str, float] | None = None

    def get_loss_stats_dict(self) -> dict[str, float]:
        """The reported means; empty between reports."""
        return self.losses or {}


class MetaAlgorithm(Algorithm):
    """What a run builds, trains, reports and saves.

    `MetaOffPolicyAlgorithm` and `MetaOnPolicyAlgorithm` implement the parts that depend on how an
    algorithm learns; an algorithm itself defines its configuration, networks and update.
    """

    #: The configuration.
    config_class: ClassVar[type[RunConfig]]
    #: Names of the scalars that a gradient step returns.
    loss_names: ClassVar[tuple[str, ...]]
    #: Whether the policy observes the task.
    observe_task: ClassVar[bool] = False
    #: Whether `trial_agent` needs the replay buffer of training.
    needs_replay: ClassVar[bool] = False
    #: Whether the state of the simulations decides what is collected next, and is part of a checkpoint.
    keeps_environment: ClassVar[bool] = True
    #: Number of threads that work on independent parts of an update; results do not depend on it.
    threads: int = 1

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any, context: Context) -> Self:
        """The algorithm with fresh weights from the run's seed, on the device."""

    @staticmethod
    @abstractmethod
    def updates_per_iteration(config: Any) -> int:
        """Gradient steps of one iteration in which all episodes have full length."""

    @classmethod
    def replay_buffer(cls, config: Any, context: Context) -> Any:
        """An empty replay buffer, or None for an algorithm that has none."""
        return None

    @abstractmethod
    def collector(
        self,
        config: Any,
        env: GymVectorEnvAdapter,
        *,
        tasks: Sequence[Any],
        horizon: int,
        generator: np.random.Generator,
        buffer: Any,
    ) -> TaskCollector:
        """The collector of a run.

        Args:
            config: the configuration.
            env: adapter over the simulations.
            tasks: the training tasks.
            horizon: most steps of an episode.
            generator: source of the choice of tasks.
            buffer: what `replay_buffer` returned.
        """

    @classmethod
    @abstractmethod
    def trainer_params(cls, config: Any, collector: Any, shared: Mapping[str, Any]) -> Any:
        """Parameters with which one epoch of Tianshou's trainer is one iteration.

        Args:
            config: the configuration.
            collector: what `collector` returned.
            shared: parameters that do not depend on the algorithm.
        """

    # -- iterations divided among processes --------------------------------------------------------

    @abstractmethod
    def shares(self, config: Any, horizon: int, count: int) -> list[range]:
        """Divides an iteration among processes: the places of the tasks or rollouts of each.

        Raises:
            ConfigError: when there is no work for so many.
        """

    @classmethod
    @abstractmethod
    def simulations_of(cls, config: Any, share: range) -> int:
        """Number of simulations of a share."""

    @abstractmethod
    def worker(
        self, config: Any, env: GymVectorEnvAdapter, *, horizon: int, share: range, products: str
    ) -> Any:
        """What works on a share, in the process that has this copy of the algorithm.

        Args:
            config: the configuration.
            env: adapter over the simulations of the share.
            horizon: most steps of an episode.
            share: places of the tasks or rollouts.
            products: what computes matrix products in updates; see `matrix_products`.
        """

    @abstractmethod
    def distribute(self, collector: Any, pool: Pool, shares: Sequence[range]) -> None:
        """Lets the processes of a pool do what the collector and the update do in this process.

        Args:
            collector: what `collector` returned.
            pool: the processes, each of which has a `worker`.
            shares: their shares.
        """

    def begin_run(self, report_every: int, generator: torch.Generator) -> None:
        """Initialises the reports of mean losses and the generator of the updates.

        Args:
            report_every: gradient steps per report of mean losses.
            generator: random generator of the updates, on the device of the networks.
        """
        self.generator = generator
        self.device = generator.device
        self.means = RunningMeans(self.loss_names, report_every, self.device)

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The array as a tensor on the algorithm's device."""
        return torch.from_numpy(array).to(self.device)

    def train(self, mode: bool = True) -> Self:
        """Sets only the mode flag, because no network here behaves differently in training.

        Tianshou changes the mode before and after each update, and the original method visits every
        submodule.
        """
        self.training = mode
        return self

    # -- state ----------------------------------------------------------------------------------

    def network_state(self) -> dict[str, Tensor]:
        """Parameters of all networks by name, without the optimisers."""
        state = self.state_dict()
        del state[self._STATE_DICT_KEY_OPTIMIZERS]
        return dict(state)

    def load_network_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores the result of `network_state`; the optimisers do not change."""
        optimisers = [optimiser.state_dict() for optimiser in self._optimizers]
        self.load_state_dict({**state, self._STATE_DICT_KEY_OPTIMIZERS: optimisers})

    def optimisers(self) -> list[Any]:
        """The algorithm's optimisers in the order of their creation."""
        return list(self._optimizers)

    def generators(self) -> Mapping[str, torch.Generator]:
        """All generators of the algorithm and its policy."""
        return {"update": self.generator, "policy": self.policy.generator}
