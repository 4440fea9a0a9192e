"""What the trial loop asks of an agent, and the reference agents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Trial:
    """What an agent knows when a trial begins.

    Attributes:
        num_tasks: Number of tasks T that run side by side; row i of every array is task i.
        observation_space: Space of one task's observation (O,).
        action_space: Space of one task's action (A,).
        horizon: Largest number of steps in an episode.
        adaptation_episodes: Episodes before the scored ones.
        scored_episodes: Episodes at the end of the trial whose return counts.
        episodes_per_update: Episodes between two updates of methods that adapt in batches.
        deterministic: Whether scored episodes are to be acted without exploration noise.
        seed: Seed of everything that is random in the agent, a non-negative 32-bit integer.
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


@dataclass(frozen=True)
class Transition:
    """One step of all tasks. Rows outside `active` belong to episodes that are already over.

    Attributes:
        observation: What the action was chosen from (T, O) float32.
        action: What the agent answered (T, A) float32.
        reward: Rewards (T,) float64, 0 where not active.
        next_observation: Observations after the step (T, O) float32.
        terminated: Episodes that ended in a state without a future (T,) bool.
        truncated: Episodes cut by the time limit (T,) bool.
        active: Tasks that took this step (T,) bool.
        info: The environment's info, an array (T,) per key. `task_id` is in it only for agents with
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

    The methods are batched over the T tasks of a trial, which all start and end their episodes
    together; a task whose episode ends early waits for the others. Adaptation to one task must not
    use another task's rows. An agent with the attribute ``observe_task = True`` is an oracle: its
    observations have the task vector appended.
    """

    def begin_trial(self, trial: Trial) -> None:
        """Forget every earlier trial; new tasks begin."""

    def act(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """Finite actions (T, A) for observations (T, O). Waiting tasks' rows are ignored."""

    def observe(self, transition: Transition) -> None:
        """Take in one step, whether its episode is scored or not."""

    def end_episode(self) -> None:
        """All episodes are over, and the next begins with another `act` or the trial is done."""


class ZeroAgent:
    """Always the zero action: what a body does when left alone."""

    def begin_trial(self, trial: Trial) -> None:
        """See `Agent.begin_trial`."""
        self._actions = np.zeros((trial.num_tasks, *_shape(trial.action_space)), np.float32)

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Zeros (T, A)."""
        return self._actions.copy()

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def end_episode(self) -> None:
        """Nothing is remembered."""


class RandomAgent:
    """Actions drawn uniformly from the action space, anew in every step."""

    def begin_trial(self, trial: Trial) -> None:
        """See `Agent.begin_trial`."""
        if not isinstance(trial.action_space, gymnasium.spaces.Box):
            raise ValueError(f"RandomAgent draws from a Box, got {trial.action_space}")
        self._rng = np.random.default_rng(trial.seed)
        self._low, self._high = trial.action_space.low, trial.action_space.high
        self._num_tasks = trial.num_tasks

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Uniform actions (T, A)."""
        shape = (self._num_tasks, *self._low.shape)
        return self._rng.uniform(self._low, self._high, shape).astype(np.float32)

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def end_episode(self) -> None:
        """Nothing is remembered."""


@dataclass(frozen=True)
class ScriptedOracle:
    """A controller written by hand, which sees the task: a reference close to the best possible.

    Attributes:
        controller: Function from observations with the task vector appended (T, O + P) to actions
            (T, A).
    """

    controller: Callable[[NDArray[np.float32]], NDArray[Any]]
    observe_task: bool = dataclasses.field(default=True, init=False)

    def begin_trial(self, trial: Trial) -> None:
        """Nothing is remembered."""

    def act(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """The controller's actions (T, A)."""
        return self.controller(observations)

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def end_episode(self) -> None:
        """Nothing is remembered."""


def _shape(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    if space.shape is None:
        raise ValueError(f"an action space needs a shape, got {space}")
    return space.shape
