"""The agent interface of the trial loop, and the reference agents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.protocol import is_adapting


@dataclass(frozen=True)
class Trial:
    """Information for an agent at the start of a trial.

    Attributes:
        num_tasks: Number of tasks T that run in parallel; row i of every array is task i.
        observation_space: Space of one task's observation (O,).
        action_space: Space of one task's action (A,).
        horizon: Largest number of steps in an episode.
        adaptation_episodes: Episodes before the scored ones.
        scored_episodes: Episodes at the end of the trial whose returns are scored.
        episodes_per_update: Episodes between two updates of methods that adapt in batches.
        deterministic: Whether to act without exploration noise in scored episodes.
        seed: Seed of all random numbers of the agent, a non-negative 32-bit integer.
        scored_between: Scored episodes before each batch of adaptation episodes.
    """

    num_tasks: int
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    horizon: int
    adaptation_episodes: int
    scored_episodes: int
    episodes_per_update: int
    deterministic: bool
    seed: int
    scored_between: int = 0

    def adapting(self, episode: int) -> bool:
        """Whether an episode of the trial, counted from 0, is an adaptation episode."""
        return is_adapting(episode, self.adaptation_episodes, self.episodes_per_update, self.scored_between)


@dataclass(frozen=True)
class Transition:
    """One step of all tasks. Rows outside `active` belong to episodes that have already ended.

    Attributes:
        observation: Observations before the step (T, O) float32.
        action: Actions of the agent (T, A) float32.
        reward: Rewards (T,) float64, 0 if not active.
        next_observation: Observations after the step (T, O) float32.
        terminated: Episodes that ended in a terminal state (T,) bool.
        truncated: Episodes that ended at the time limit (T,) bool.
        active: Tasks that took this step (T,) bool.
        info: The environment's info, an array (T,) per key. It contains `task_id` only for agents with
            `observe_task`.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float64]
    next_observation: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    active: NDArray[np.bool_]
    info: Mapping[str, NDArray[Any]]


class Agent(Protocol):
    """A structural type: any object with these four methods can be evaluated.

    The methods are batched over the T tasks of a trial. All tasks start their episodes together; a
    task whose episode ends early waits for the others. Adaptation to one task must not use the
    rows of another. An agent with the attribute ``observe_task = True`` is an oracle: its
    observations have the task vector appended. With the attribute ``scores_between = True`` an agent says
    that it learns only from episodes for which `Trial.adapting` is true; protocols with `scored_between`
    need it.
    """

    def begin_trial(self, trial: Trial) -> None:
        """Start a trial with new tasks; data of earlier trials must not be used."""

    def act(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """Finite actions (T, A) for observations (T, O). Rows of waiting tasks are ignored."""

    def observe(self, transition: Transition) -> None:
        """Receive one step, in adaptation and in scored episodes."""

    def end_episode(self) -> None:
        """Called when all episodes have ended; the next one starts with `act`, or the trial has ended."""


class ZeroAgent:
    """An agent whose actions are always zero."""

    scores_between = True

    def begin_trial(self, trial: Trial) -> None:
        """See `Agent.begin_trial`."""
        self._actions = np.zeros((trial.num_tasks, *_shape(trial.action_space)), np.float32)

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Zeros (T, A)."""
        return self._actions.copy()

    def observe(self, transition: Transition) -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Does nothing."""


class RandomAgent:
    """An agent with actions drawn uniformly from the action space in every step."""

    scores_between = True

    def begin_trial(self, trial: Trial) -> None:
        """See `Agent.begin_trial`."""
        if not isinstance(trial.action_space, gymnasium.spaces.Box):
            raise ValueError(f"RandomAgent requires a Box as action space, got {trial.action_space}")
        self._rng = np.random.default_rng(trial.seed)
        self._low, self._high = trial.action_space.low, trial.action_space.high
        self._num_tasks = trial.num_tasks

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Uniform actions (T, A)."""
        shape = (self._num_tasks, *self._low.shape)
        return self._rng.uniform(self._low, self._high, shape).astype(np.float32)

    def observe(self, transition: Transition) -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class ScriptedOracle:
    """A hand-written controller that observes the task, as a reference close to the optimum.

    Attributes:
        controller: Function from observations with the task vector appended (T, O + P) to actions
            (T, A).
    """

    controller: Callable[[NDArray[np.float32]], NDArray[Any]]
    observe_task: bool = dataclasses.field(default=True, init=False)
    scores_between: bool = dataclasses.field(default=True, init=False)

    def begin_trial(self, trial: Trial) -> None:
        """Does nothing."""

    def act(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """The controller's actions (T, A)."""
        return self.controller(observations)

    def observe(self, transition: Transition) -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Does nothing."""


def _shape(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    if space.shape is None:
        raise ValueError(f"an action space must have a shape, got {space}")
    return space.shape
