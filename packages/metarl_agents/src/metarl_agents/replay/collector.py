"""Collection for meta-learning: choice of tasks, conditioning of the policy, target view of the data."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import SequenceSummaryStats

from metarl_agents.common.collector import MetaCollectStats, TaskCollector
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter, box_width
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.policy import MetaPolicy


@dataclass(frozen=True)
class Stage:
    """Whole episodes of every visited task with one conditioning.

    Attributes:
        steps: minimum number of environment steps per task; the last episode is completed.
        conditioning: information about the task that the policy uses; names are defined by the policy.
        to_context: whether to add the episodes to the task's context view.
        first: conditioning of each task's first episode, if it differs.
        one_at_a_time: whether an episode starts only after the task's previous one has been stored.
        cut: time limit of an episode in steps, if it is below the horizon; episodes are truncated
            there.
    """

    steps: int
    conditioning: str
    to_context: bool
    first: str | None = None
    one_at_a_time: bool = False
    cut: int | None = None


@dataclass(frozen=True)
class Schedule:
    """Stages of collection before training, on every task, and in each iteration."""

    initial: tuple[Stage, ...]
    iteration: tuple[Stage, ...]

    def steps_per_visit(self, horizon: int) -> tuple[int, int]:
        """Minimum number of environment steps of a visit of a task, and that with full-length episodes."""
        steps = [stage.steps for stage in self.iteration]
        return sum(steps), sum(-(-count // horizon) * horizon for count in steps)


class MetaCollector(TaskCollector):
    """Runs a `Schedule` over the tasks of a family and stores whole episodes.

    One `collect` is one or more iterations. An iteration draws tasks, clears the context view of each
    and runs the stages of the schedule. Episodes of different tasks, and independent episodes of one
    task, run together in one vector environment. Steps are staged in arrays and stored when the
    episodes have ended.

    Args:
        policy: the acting policy.
        env: adapter over a vector environment in autoreset mode DISABLED that has `set_tasks`.
        buffer: the buffer for the episodes.
        schedule: the stages of collection.
        tasks: the training tasks; task k of the buffer is the k-th of them.
        tasks_per_iteration: tasks visited per iteration, drawn uniformly with replacement.
        horizon: time limit of an episode in steps.
        generator: random generator for the choice of tasks.

    Raises:
        ValueError: when environment, buffer and tasks are not consistent.
    """

    def __init__(
        self,
        *,
        policy: MetaPolicy,
        env: GymVectorEnvAdapter,
        buffer: TaskReplayBuffer,
        schedule: Schedule,
        tasks: Sequence[Any],
        tasks_per_iteration: int,
        horizon: int,
        generator: np.random.Generator,
    ) -> None:
        self.tasks = tuple(tasks)
        self.horizon = horizon
        super().__init__(policy, env, buffer, collect_stats_class=MetaCollectStats)
        if env.resets_itself:
            raise ValueError(
                "a MetaCollector resets the environment itself: create the environment with "
                "autoreset_mode='Disabled'"
            )
        self.adapter = env
        self.meta_policy = policy
        self.task_buffer = buffer
        self.schedule = schedule
        self.tasks_per_iteration = tasks_per_iteration
        self.generator = generator
        self.device = policy.generator.device
        simulations, steps = env.env_num, horizon
        observations = box_width(env.venv.single_observation_space)
        actions = box_width(env.venv.single_action_space)
        # The time axis comes first in staging, so that each step writes one contiguous block.
        self._staged: dict[str, NDArray[Any]]
        self._staged = {
            "obs": np.zeros((steps + 1, simulations, observations), np.float32),
            "obs_next": np.zeros((steps, simulations, observations), np.float32),
            "act": np.zeros((steps, simulations, actions), np.float32),
            "rew": np.zeros((steps, simulations), np.float64),
            "terminated": np.zeros((steps, simulations), bool),
            "truncated": np.zeros((steps, simulations), bool),
        }
        for key in buffer.info_keys:
            self._staged[key] = np.zeros((steps, simulations), np.float64)

    def _validate_buffer(self) -> None:
        if not isinstance(self.buffer, TaskReplayBuffer):
            raise ValueError(f"expected a TaskReplayBuffer, not {type(self.buffer).__name__}")
        if self.buffer.num_tasks != len(self.tasks):
            raise ValueError(f"the buffer has {self.buffer.num_tasks} tasks, the collector {len(self.tasks)}")
        if self.buffer.capacity < self.horizon:
            raise ValueError(
                f"a task's ring of {self.buffer.capacity} transitions cannot store an episode of "
                f"{self.horizon} steps"
            )

    def steps_per_iteration(self) -> tuple[int, int]:
        """Minimum number of environment steps of one iteration, and that with episodes of full length."""
        fewest, usual = self.schedule.steps_per_visit(self.horizon)
        return self.tasks_per_iteration * fewest, self.tasks_per_iteration * usual

    def _collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        gym_reset_kwargs: dict[str, Any] | None = None,
    ) -> MetaCollectStats:
        """Runs whole iterations until at least `n_step` steps or `n_episode` episodes are collected."""
        if random or render is not None:
            raise ValueError("a MetaCollector supports neither random actions nor rendering")
        log = _Log()
        start = time.perf_counter()
        while log.steps < (n_step or 0) or log.episodes < (n_episode or 0):
            self._iteration(log)
        return self._finish(log, start)

    def collect_initial(self) -> MetaCollectStats:
        """Runs the schedule's initial stages on every task."""
        log = _Log()
        start = time.perf_counter()
        for stage in self.schedule.initial:
            self._stage(np.arange(len(self.tasks)), stage, log)
        return self._finish(log, start)

    def _finish(self, log: "_Log", start: float) -> MetaCollectStats:
        self.collect_step += log.steps
        self.collect_episode += log.episodes
        self.collect_time += time.perf_counter() - start
        return log.stats()

    def _iteration(self, log: "_Log") -> None:
        drawn = self.generator.integers(0, len(self.tasks), size=self.tasks_per_iteration)
        while len(drawn):
            # A task that is drawn twice is visited twice, one visit after the other.
            visit, first = np.unique(drawn, return_index=True)
            self.task_buffer.clear_context(visit)
            for stage in self.schedule.iteration:
                self._stage(visit, stage, log)
            drawn = np.delete(drawn, first)

    def _stage(self, tasks_T: IntArray, stage: Stage, log: "_Log") -> None:
        missing_T = np.full(len(tasks_T), stage.steps)
        horizon = min(self.horizon, stage.cut or self.horizon)
        conditioning = stage.first or stage.conditioning
        single = stage.one_at_a_time or stage.first is not None
        while (missing_T > 0).any():
            # The number of episodes that is needed for any episode lengths.
            episodes_T = np.maximum(-(-missing_T // horizon), 0)
            which_R = np.repeat(np.arange(len(tasks_T)), episodes_T.clip(max=1 if single else None))
            for start in range(0, len(which_R), self.env_num):
                chunk = which_R[start : start + self.env_num]
                lengths = self._rollouts(tasks_T[chunk], conditioning, stage.to_context, horizon, log)
                np.subtract.at(missing_T, chunk, lengths)
            conditioning, single = stage.conditioning, stage.one_at_a_time

    def _rollouts(
        self, tasks_R: IntArray, conditioning: str, to_context: bool, horizon: int, log: "_Log"
    ) -> IntArray:
        """Runs one episode for each entry of `tasks_R` in parallel; returns their lengths."""
        adapter, policy, staged = self.adapter, self.meta_policy, self._staged
        count, simulations = len(tasks_R), self.env_num
        policy.begin_rollouts(tasks_R, conditioning, self.task_buffer)
        # Simulations without a rollout are not stepped, but they need a task.
        rows = np.minimum(np.arange(simulations), count - 1)
        adapter.venv.set_tasks([self.tasks[k] for k in tasks_R[rows]])
        active_N = np.arange(simulations) < count
        observations_NO, _ = adapter.reset_arrays(active_N if count < simulations else None)
        staged["obs"][0] = observations_NO
        actions_NA = np.zeros_like(staged["act"][0])
        lengths_N = np.zeros(simulations, np.int64)
        for step in range(horizon):
            obs_RO = torch.from_numpy(staged["obs"][step, :count]).to(self.device)
            actions_NA[:count] = policy.act(obs_RO, None, deterministic=False).cpu().numpy()
            observations_NO, rewards_N, terminated_N, truncated_N, infos = adapter.step_arrays(
                actions_NA, active_N
            )
            staged["obs"][step + 1] = observations_NO
            staged["act"][step] = actions_NA
            staged["rew"][step] = rewards_N
            staged["terminated"][step] = terminated_N
            staged["truncated"][step] = truncated_N
            for key in self.task_buffer.info_keys:
                if key in policy.column_names:
                    staged[key][step, :count] = policy.columns[key].cpu().numpy()
                else:
                    staged[key][step] = infos[key]
            lengths_N += active_N
            active_N = active_N & ~(terminated_N | truncated_N)
            if not active_N.any():
                break
            policy.observe(
                obs_RO,
                torch.from_numpy(actions_NA[:count]).to(self.device),
                torch.from_numpy(rewards_N[:count].astype(np.float32)).to(self.device),
            )
        else:
            if horizon == self.horizon:
                raise RuntimeError(
                    f"an episode continued after {horizon} steps: the collector's horizon is not "
                    "that of the environment"
                )
            staged["truncated"][horizon - 1, active_N] = True
        staged["obs_next"][...] = staged["obs"][1:]
        lengths_R = lengths_N[:count]
        episodes = {key: column[:, :count].swapaxes(0, 1) for key, column in staged.items()}
        self.task_buffer.add_episodes(tasks_R, lengths_R, episodes, to_context=to_context)
        valid_RH = np.arange(self.horizon) < lengths_R[:, None]
        log.add(conditioning, np.where(valid_RH, episodes["rew"], 0.0).sum(1), lengths_R)
        return lengths_R


class _Log:
    """Returns and lengths of the episodes of one collection."""

    def __init__(self) -> None:
        self.returns: dict[str, list[NDArray[np.float64]]] = {}
        self.lengths: list[IntArray] = []
        self.steps = 0
        self.episodes = 0

    def add(self, conditioning: str, returns: NDArray[np.float64], lengths: IntArray) -> None:
        self.returns.setdefault(conditioning, []).append(returns)
        self.lengths.append(lengths)
        self.steps += int(lengths.sum())
        self.episodes += len(lengths)

    def stats(self) -> MetaCollectStats:
        stats: MetaCollectStats = MetaCollectStats.with_autogenerated_stats(
            returns=_joined(block for blocks in self.returns.values() for block in blocks),
            lens=_joined(self.lengths),
            n_collected_episodes=self.episodes,
            n_collected_steps=self.steps,
        )
        stats.returns_by_conditioning = {
            name: SequenceSummaryStats.from_sequence(_joined(blocks)) for name, blocks in self.returns.items()
        }
        return stats


def _joined(blocks: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(list(blocks))
