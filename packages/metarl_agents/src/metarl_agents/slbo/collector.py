"""Real steps of multi-task SLBO: one task after another, rated and skipped where that is wanted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tianshou.data import SequenceSummaryStats
from torch import Tensor

from metarl_agents.common.collector import MetaCollectStats, TaskCollector
from metarl_agents.common.seeding import part_seed
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.slbo.config import SLBOConfig
from metarl_agents.slbo.dynamics import Dynamics
from metarl_agents.slbo.noise import OrnsteinUhlenbeck
from metarl_agents.slbo.rollouts import RealSimulations, Rollouts, run
from metarl_agents.slbo.schedule import Schedule
from metarl_agents.slbo.transitions import TransitionStore
from metarl_agents.trials.collector import NoBuffer

#: Streams of random numbers of an iteration's simulations.
COLLECTED, MEASURED = 0, 1


class SLBOCollector(TaskCollector):
    """Collects the steps of a task when its warm-up is complete, and goes on to the next one.

    One `collect` is one iteration of a run, which is followed by an inner iteration of the warm-up. In most
    iterations, nothing is collected.

    Args:
        policy: the policy: its `actor` acts, `begin_task` starts a new one, `keep` and `take_kept` store one.
        env: the adapter over the simulations.
        tasks: the training tasks.
        config: the configuration.
        dynamics: the learned dynamics, whose normalisers are updated.
        store: where the steps go.
        exploration: the noise of collected steps.
        schedule: where the run is.
        horizon: time limit of an episode in steps.
        generator: source of the order of tasks and of the seeds of simulations.
    """

    def __init__(
        self,
        *,
        policy: Any,
        env: GymVectorEnvAdapter,
        tasks: Sequence[Any],
        config: SLBOConfig,
        dynamics: Dynamics,
        store: TransitionStore,
        exploration: OrnsteinUhlenbeck,
        schedule: Schedule,
        horizon: int,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(policy, env, NoBuffer(), collect_stats_class=MetaCollectStats)
        self.tasks, self.config = tuple(tasks), config
        self.dynamics, self.store, self.exploration = dynamics, store, exploration
        self.schedule, self.generator = schedule, generator
        self.simulations = RealSimulations(env.venv, policy.generator.device, horizon)

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
        """The real steps of an iteration, whatever `n_step` and `n_episode` say."""
        if random or render is not None:
            raise ValueError("an SLBOCollector neither acts at random nor renders")
        start = time.perf_counter()
        schedule = self.schedule
        if schedule.task is None:
            self._begin_task()
        elif len(self.store) and schedule.inner_done < self.config.inner_iterations:
            return self._stats({}, 0, {})
        stats = self._after_warm_up()
        schedule.real_steps += stats.n_collected_steps
        self.collect_step += stats.n_collected_steps
        self.collect_episode += stats.n_collected_episodes
        stats.collect_time = time.perf_counter() - start
        self.collect_time += stats.collect_time
        return stats

    def _after_warm_up(self) -> MetaCollectStats:
        """Measures and rates the task, collects its steps unless it is skipped, and goes to the next one."""
        schedule, config = self.schedule, self.config
        assert schedule.task is not None
        found: dict[str, Rollouts] = {}
        scalars: dict[str, float] = {"task": schedule.task}
        seed = int(self.generator.integers(2**63))
        steps, chosen = 0, True
        if len(self.store):
            by_real = config.selection == "real"
            if config.measured_episodes or by_real:
                found["after"] = self._episodes(part_seed(seed, MEASURED), explores=False)
                measured = found["after"].reward.numel()
                if by_real:
                    schedule.rating_steps += measured
                    steps += measured
                else:
                    schedule.measured_steps += measured
            scalars["virtual_return"] = schedule.last_returns[-1]
            if config.selection != "none":
                rating = (
                    schedule.real_rating(found["after"].mean_return)
                    if by_real
                    else schedule.estimated_rating()
                )
                scalars["rating"] = rating
                chosen = self._chosen(rating)
        if chosen:
            found["exploring"] = rollouts = self._episodes(part_seed(seed, COLLECTED), explores=True)
            obs, act, next_obs, ended = rollouts.in_order()
            if len(self.store):
                scalars["new_model_error"] = float(self.dynamics.error(obs, act, next_obs))
            self.store.append(obs, act, next_obs, ended)
            self.dynamics.observe(obs, next_obs)
            steps += len(obs)
            schedule.trained_tasks += 1
        scalars |= {
            "trained_tasks": schedule.trained_tasks,
            "skipped_tasks": schedule.skipped_tasks,
            "rating_steps": schedule.rating_steps,
            "measured_steps": schedule.measured_steps,
        }
        self._begin_task()
        return self._stats(found, steps, scalars)

    def _chosen(self, rating: float) -> bool:
        """Whether the task's steps are collected; with "window", `schedule.task` may become another one."""
        schedule = self.schedule
        if self.config.selection != "window":
            chosen = schedule.passes(rating)
            schedule.skipped_tasks += not chosen
            return chosen
        best, complete = schedule.offer(rating, self.config.candidates)
        if best:
            self.policy.keep()
        if complete:
            self.policy.take_kept()
        return complete

    def _begin_task(self) -> None:
        self.schedule.begin_task(len(self.tasks), self.generator)
        self.policy.begin_task(self.schedule.policies)

    def _episodes(self, seed: int, *, explores: bool) -> Rollouts:
        """Real rollouts of the present policy on the present task."""
        assert self.schedule.task is not None
        self.simulations.set_task(self.tasks[self.schedule.task])
        self.simulations.seed = seed
        constants = self.dynamics.constants()
        return run(
            self.simulations,
            self.policy.actor,
            constants.mean,
            constants.scale,
            self.policy.generator,
            self.exploration if explores else None,
        )

    def _stats(
        self, found: Mapping[str, Rollouts], steps: int, scalars: Mapping[str, float]
    ) -> MetaCollectStats:
        """Returns of the first, whole episodes; those that are not learned from are a conditioning only."""
        learned = found.get("exploring")
        returns = Tensor() if learned is None else learned.returns
        lengths = Tensor() if learned is None else learned.in_first_episode.sum(0)
        stats: MetaCollectStats = MetaCollectStats.with_autogenerated_stats(
            returns=returns.cpu().double().numpy(),
            lens=lengths.cpu().numpy(),
            n_collected_episodes=len(returns),
            n_collected_steps=steps,
        )
        stats.returns_by_conditioning = {
            name: SequenceSummaryStats.from_sequence(r.returns.cpu().double().numpy())
            for name, r in found.items()
        }
        stats.scalars = dict(scalars)
        return stats

    def state(self) -> dict[str, Any]:
        """See `TaskCollector.state`; and where the run is."""
        return super().state() | {"schedule": self.schedule.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `TaskCollector.load_state`."""
        super().load_state(state)
        self.schedule.load_state(state["schedule"])
