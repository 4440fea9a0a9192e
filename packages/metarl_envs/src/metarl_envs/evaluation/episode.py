"""One episode of all tasks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.agents import Agent, Transition, Trial


@dataclass
class Episode:
    """Recorded values of one episode of all tasks; every array is (T,)."""

    returns: NDArray[np.float64]
    terms: dict[str, NDArray[np.float64]]
    lengths: NDArray[np.int64]
    success_once: NDArray[np.bool_]
    success_at_end: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    diverged: NDArray[np.bool_]


def run_episode(
    env: Any,
    agent: Agent,
    name: str,
    trial: Trial,
    observe_task: bool,
    observations: NDArray[np.float32],
    info: Mapping[str, NDArray[Any]],
    *,
    limit: int,
) -> Episode:
    """Step all tasks until the last episode has ended; tasks whose episodes end earlier wait.

    Args:
        env: The vector environment, just reset, in autoreset mode `DISABLED`.
        agent: Chooses the actions and observes the transitions.
        name: The agent's name, for messages.
        trial: The trial that the episode is part of.
        observe_task: Whether the agent may know the task.
        observations: Observations of the reset (T, O).
        info: Infos of the reset.
        limit: Time limit; if it is below the trial's horizon, episodes are truncated there.

    Raises:
        ValueError: If the agent's actions have the wrong shape or are not finite.
        RuntimeError: If an episode continues beyond the time limit.
    """
    count = trial.num_tasks
    shape = (count, *(trial.action_space.shape or ()))
    episode = Episode(
        returns=np.zeros(count),
        terms={key: np.zeros(count) for key in info if key.startswith("reward_")},
        lengths=np.zeros(count, np.int64),
        success_once=np.zeros(count, np.bool_),
        success_at_end=np.zeros(count, np.bool_),
        terminated=np.zeros(count, np.bool_),
        diverged=np.zeros(count, np.bool_),
    )
    # If train and test contain the same tasks, the index alone would identify the task.
    hidden = () if observe_task else ("task_id", "_task_id")
    active = np.ones(count, np.bool_)
    for step in range(limit):
        actions = _checked(agent.act(observations), shape, name)
        # No mask if no task waits, because a mask costs the environment a few copies.
        mask = None if active.all() else active
        following, rewards, terminated, truncated, info = env.step(actions, mask=mask)
        if step + 1 == limit < trial.horizon:
            truncated = truncated | (active & ~terminated)
        episode.returns[active] += rewards[active]
        for key, sums in episode.terms.items():
            sums[active] += info[key][active]
        episode.lengths += active
        success = info["success"] & active
        episode.success_once |= success
        episode.success_at_end = np.where(active, success, episode.success_at_end)
        episode.terminated |= terminated & active
        episode.diverged |= info["diverged"] & active
        going_on = active & ~(terminated | truncated)
        # Last, because the agent may keep these arrays or change them in place.
        agent.observe(
            Transition(
                observation=observations,
                action=actions,
                reward=rewards,
                next_observation=following,
                terminated=terminated,
                truncated=truncated,
                active=active,
                info={key: value for key, value in info.items() if key not in hidden},
            )
        )
        active, observations = going_on, following
        if not active.any():
            return episode
    raise RuntimeError(
        f"{int(active.sum())} of {count} episodes went on beyond the time limit of {limit} "
        "steps; the environment must truncate them"
    )


def _checked(actions: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """The agent's actions as an array, after checks of type, shape and values."""
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(actions, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"agent {name} must return actions as numbers of shape {shape}, got {type(actions).__name__}"
        ) from None
    if array.shape != shape:
        raise ValueError(
            f"agent {name} must return actions of shape {shape}, a row per task, got {array.shape}"
        )
    if not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        raise ValueError(
            f"agent {name} must return finite actions, got NaN or infinity for tasks "
            f"{', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}"
        )
    return array
