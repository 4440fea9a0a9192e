"""Tianshou's trainers as training runs use them, and the only use of names that Tianshou keeps private.

Tianshou has no public way to do the following; `tests/agents/test_trainers.py` fails if a name moves.

- `Trainer._update_step` takes the gradient steps of an iteration and does nothing else. Here the library
  for matrix products is chosen around it, and the algorithm may decide how many gradient steps it takes.
- `Trainer._pbar` shows a progress bar of the gradient steps even with `show_progress=False` (2.0.1).
- `OnlineTrainer._training_step` is a collection and the gradient steps on it; its result says by how much an
  epoch has advanced.
- `Algorithm.Optimizer._optim` is the PyTorch optimiser. Tianshou's own step takes one loss, whose graph
  would hold all tasks at once.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tianshou.algorithm.algorithm_base import TrainingStats
from tianshou.trainer import OffPolicyTrainer, OnlineTrainer, OnPolicyTrainer

from metarl_agents.common.algorithm import MetaTrainingStats
from metarl_agents.common.matrix_products import products_by


class MetaOffPolicyTrainer(OffPolicyTrainer):
    """Tianshou's off-policy trainer, without progress bars.

    Attributes:
        products: what computes matrix products in gradient steps; see `matrix_products`.
    """

    products = "default"

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
        with products_by(self.products):
            wanted = algorithm.gradient_steps(params.training_collector.buffer, collect_stats)
            algorithm.begin_updates()
            if wanted == 0:
                return MetaTrainingStats()
            try:
                if wanted is not None:
                    params.update_step_num_gradient_steps_per_sample = wanted / collected
                return super()._update_step(collect_stats)
            finally:
                params.update_step_num_gradient_steps_per_sample = usual


class MetaOnPolicyTrainer(OnPolicyTrainer):
    """Tianshou's on-policy trainer; it reports every gradient step of the algorithm's `outer_steps`.

    Attributes:
        products: what computes matrix products in gradient steps; see `matrix_products`.
    """

    products = "default"

    def _products(self) -> AbstractContextManager[None]:
        return products_by(self.products)

    def _update_step(self, collect_stats: Any = None) -> TrainingStats:
        algorithm = self.algorithm
        stats: TrainingStats = MetaTrainingStats()
        with self._products():
            start = time.perf_counter()
            for losses in algorithm.outer_steps():
                stats = MetaTrainingStats(losses=algorithm.means.add(losses))
                stats.train_time = time.perf_counter() - start
                self._policy_update_time += stats.train_time
                self._update_moving_avg_stats_and_log_update_data(stats)
                start = time.perf_counter()
        return stats


class ModelBasedTrainer(MetaOnPolicyTrainer):
    """The same for agents that learn from simulated steps, so that iterations may be without real ones.

    The algorithm chooses what computes its products (`large_products`), because only some are large.
    """

    def _products(self) -> AbstractContextManager[None]:
        self.algorithm.large_products = self.products
        return nullcontext()

    def _training_step(self) -> Any:
        result = super()._training_step()
        return _OneStepOfAnEpoch(
            result.get_collect_stats(), result.get_training_stats(), result.is_training_done()
        )


class _OneStepOfAnEpoch(OnlineTrainer._TrainingStepResult):
    """An epoch ends after it, whatever was collected."""

    def get_steps_in_epoch_advancement(self) -> int:
        return 1


def torch_optimiser(optimiser: Any) -> torch.optim.Optimizer:
    """The PyTorch optimiser of a Tianshou optimiser."""
    found: torch.optim.Optimizer = optimiser._optim
    return found
