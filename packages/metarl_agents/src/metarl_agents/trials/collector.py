"""Collection for agents that learn from whole trials, on policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import ReplayBuffer, SequenceSummaryStats

from metarl_agents.common.collector import MetaCollectStats, TaskCollector
from metarl_agents.common.seeding import part_seed
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.trials.episodes import collect_episodes
from metarl_agents.trials.policy import TrialPolicy


class NoBuffer(ReplayBuffer):
    """The replay buffer that Tianshou's trainers ask for, of agents that have none."""

    def __init__(self) -> None:
        super().__init__(size=1)

    def hasnull(self) -> bool:
        """Never: it stays empty."""
        return False


#: Part of an iteration's random numbers that the simulations have; tasks have those of their place.
SIMULATIONS = 2**32 - 1


class Batch(NamedTuple):
    """What a collection reports of a batch of episodes.

    Attributes:
        returns: undiscounted returns (T, E).
        lengths: steps of each episode (T, E).
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


class RunsTrials(Protocol):
    """What runs the trials of an iteration: `Trials` in this process, or actors."""

    def run(self, tasks: Sequence[Any], seed: int) -> list[Batch]:
        """Runs one trial of each task, and returns what to report of each batch of episodes."""


class Trials:
    """Runs trials of tasks in this process: batches of episodes with the policy's learning between them.

    The policy keeps what it takes in. All random numbers depend on the seed and on the place of a task in
    the iteration, not on the other tasks, so that the tasks may be divided among processes.

    Args:
        policy: what acts and learns.
        env: adapter over T x E simulations in autoreset mode DISABLED that has `set_tasks`.
        episodes_per_task: rollouts E of a task side by side.
        batch_names: conditioning of each batch of a trial, as metrics call it.
        horizon: most steps of an episode.
        first_task: place of the first task in the iteration.
    """

    def __init__(
        self,
        *,
        policy: TrialPolicy,
        env: GymVectorEnvAdapter,
        episodes_per_task: int,
        batch_names: Sequence[str],
        horizon: int,
        first_task: int = 0,
    ) -> None:
        self.policy = policy
        self.env = env
        self.episodes_per_task = episodes_per_task
        self.batch_names = tuple(batch_names)
        self.horizon = horizon
        self.first_task = first_task

    def run(self, tasks: Sequence[Any], seed: int) -> list[Batch]:
        """See `RunsTrials`."""
        policy, first, rollouts = self.policy, self.first_task, self.episodes_per_task
        device = policy.generator.device
        streams = [
            torch.Generator(device).manual_seed(part_seed(seed, first + place)) for place in range(len(tasks))
        ]
        shape = (self.horizon, rollouts, self.env.venv.single_action_space.shape[0])
        # Simulation i of the iteration gets this seed plus i.
        env_seed: int | None = part_seed(seed, SIMULATIONS) + first * rollouts
        policy.begin_trials(len(tasks), rollouts)
        batches = []
        for number in range(len(self.batch_names)):
            if number:
                policy.adapt()
            noise = [torch.randn(shape, generator=stream, device=device) for stream in streams]
            policy.planned_noise = iter(torch.stack(noise, 1))
            try:
                episodes = collect_episodes(
                    self.env,
                    tasks,
                    rollouts,
                    self.horizon,
                    self._act,
                    policy.observe_arrays,
                    policy.action_scale,
                    env_seed,
                )
            finally:
                policy.planned_noise = None
            env_seed = None
            policy.end_episode()
            policy.take(episodes)
            batches.append(Batch(episodes.returns, episodes.lengths))
        return batches

    def _act(self, obs_NO: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.policy.act_on_arrays(obs_NO, deterministic=False)


class TrialCollector(TaskCollector):
    """Draws the tasks of an iteration and a seed for their trials, and reports their returns.

    One `collect` is one iteration.

    Args:
        policy: what acts and learns.
        trials: what runs the trials.
        env: an environment of the run in autoreset mode DISABLED.
        tasks: the training tasks.
        tasks_per_iteration: tasks T of an iteration, drawn uniformly, without replacement where there
            are so many.
        batch_names: conditioning of each batch of a trial, as metrics call it.
        generator: source of the tasks and of the seed of their trials.

    Raises:
        ValueError: when the environment resets itself.
    """

    def __init__(
        self,
        *,
        policy: TrialPolicy,
        trials: RunsTrials,
        env: GymVectorEnvAdapter,
        tasks: Sequence[Any],
        tasks_per_iteration: int,
        batch_names: Sequence[str],
        generator: np.random.Generator,
    ) -> None:
        super().__init__(policy, env, NoBuffer(), collect_stats_class=MetaCollectStats)
        if env.resets_itself:
            raise ValueError(
                "a TrialCollector decides itself when to reset: create the environment with "
                "autoreset_mode='Disabled'"
            )
        self.trials = trials
        self.tasks = tuple(tasks)
        self.tasks_per_iteration = tasks_per_iteration
        self.batch_names = tuple(batch_names)
        self.generator = generator

    def _validate_buffer(self) -> None:
        """Nothing to check: nothing is stored in it."""

    def _collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        gym_reset_kwargs: dict[str, Any] | None = None,
    ) -> MetaCollectStats:
        """One iteration, whatever `n_step` and `n_episode` say: its data fit one policy only."""
        if random or render is not None:
            raise ValueError("a TrialCollector neither acts at random nor renders")
        start = time.perf_counter()
        # The released code of TESP and of RL2 visits a task once; two directions cannot fill 40 places.
        again = self.tasks_per_iteration > len(self.tasks)
        drawn = self.generator.choice(len(self.tasks), self.tasks_per_iteration, replace=again)
        seed = int(self.generator.integers(2**63))
        stats = self._stats(self.trials.run([self.tasks[number] for number in drawn], seed))
        self.collect_step += stats.n_collected_steps
        self.collect_episode += stats.n_collected_episodes
        self.collect_time += time.perf_counter() - start
        return stats

    def _stats(self, batches: Sequence[Batch]) -> MetaCollectStats:
        lengths = np.concatenate([batch.lengths.ravel() for batch in batches])
        stats: MetaCollectStats = MetaCollectStats.with_autogenerated_stats(
            returns=np.concatenate([batch.returns.ravel() for batch in batches]),
            lens=lengths,
            n_collected_episodes=len(lengths),
            n_collected_steps=int(lengths.sum()),
        )
        returns: dict[str, list[Any]] = {}
        for name, batch in zip(self.batch_names, batches, strict=True):
            returns.setdefault(name, []).append(batch.returns.ravel())
        stats.returns_by_conditioning = {
            name: SequenceSummaryStats.from_sequence(np.concatenate(parts)) for name, parts in returns.items()
        }
        return stats
