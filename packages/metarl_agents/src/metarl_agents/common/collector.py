"""Shared code of off-policy and on-policy collectors, which draw their own tasks."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tianshou.data import SequenceSummaryStats
from tianshou.data.collector import BaseCollector, CollectStats

from metarl_agents.common.seeding import numpy_state, restore_numpy_state


@dataclass(kw_only=True)
class MetaCollectStats(CollectStats):
    """Tianshou's collection statistics, and what only some agents report.

    Attributes:
        returns_by_conditioning: returns split by conditioning.
        scalars: further values, by the names of their metrics without "collect/".
    """

    returns_by_conditioning: dict[str, SequenceSummaryStats] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)


class TaskCollector(BaseCollector[MetaCollectStats]):
    """Base class of collectors that draw their own tasks.

    Attributes:
        generator: random generator for the choice of tasks.
    """

    generator: np.random.Generator

    def _validate_n_step_n_episode(self, n_episode: int | None, n_step: int | None) -> None:
        if (n_step is None) == (n_episode is None) or not (n_step or n_episode):
            raise ValueError("give exactly one of n_step and n_episode, as a positive number")

    def collect_initial(self) -> MetaCollectStats:
        """What is collected before the first iteration: nothing, unless overridden."""
        return MetaCollectStats(n_collected_episodes=0, n_collected_steps=0)

    def state(self) -> dict[str, Any]:
        """Counters and the state of the generator, convertible to JSON, without the environment."""
        return {
            "generator": numpy_state(self.generator),
            "collect_step": self.collect_step,
            "collect_episode": self.collect_episode,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        restore_numpy_state(self.generator, state["generator"])
        self.collect_step = state["collect_step"]
        self.collect_episode = state["collect_episode"]
