"""Batches of whole episodes under per-task policies, gathered from the native vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.advantages import task_advantages
from metarl_agents.vector_adapter import GymVectorEnvAdapter


class Episodes(NamedTuple):
    """E complete episodes of each of T tasks, padded to H steps.

    Attributes:
        obs: observations (T, E, H, O) float32.
        act: actions (T, E, H, A) float32, as drawn from the policy.
        reward: rewards (T, E, H) float64.
        valid: steps that happened (T, E, H), the first ones of each episode.
    """

    obs: NDArray[np.float32]
    act: NDArray[np.float32]
    reward: NDArray[np.float64]
    valid: NDArray[np.bool_]

    @property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted returns (T, E)."""
        sums: NDArray[np.float64] = np.where(self.valid, self.reward, 0.0).sum(-1)
        return sums

    @property
    def steps(self) -> int:
        """Environment steps."""
        return int(self.valid.sum())


class TaskSample(NamedTuple):
    """The steps of one task as tensors.

    Attributes:
        obs: observations (M, O).
        act: actions (M, A).
        advantage: standardised advantages (M,).
    """

    obs: Tensor
    act: Tensor
    advantage: Tensor


def collect_episodes(
    adapter: GymVectorEnvAdapter,
    tasks: Sequence[Any],
    episodes: int,
    horizon: int,
    act: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Episodes:
    """One episode in each of T x E simulations, stepped together.

    Args:
        adapter: adapter over an environment with T x E simulations in autoreset mode DISABLED.
        tasks: the T tasks; simulations of one task lie side by side.
        episodes: episodes E of each.
        horizon: most steps of an episode.
        act: actions (T, E, A) for observations (T, E, O). Actions beyond the box are clipped to it
            on their way to the environment and kept as they are in the batch.

    Raises:
        ValueError: when the number of simulations is another.
        RuntimeError: when an episode goes on beyond the horizon.
    """
    count = len(tasks) * episodes
    if adapter.env_num != count:
        raise ValueError(
            f"{len(tasks)} tasks with {episodes} episodes need {count} simulations, not {adapter.env_num}"
        )
    shape = (len(tasks), episodes)
    adapter.venv.set_tasks([task for task in tasks for _ in range(episodes)])  # type: ignore[attr-defined]
    observations_NO, _ = adapter.reset_arrays(None)
    size = observations_NO.shape[1]
    space = adapter.venv.single_action_space
    obs = np.zeros((horizon, count, size), np.float32)
    actions = np.zeros((horizon, count, space.shape[0]), np.float32)  # type: ignore[index]
    rewards = np.zeros((horizon, count), np.float64)
    valid = np.zeros((horizon, count), bool)
    active_N = np.ones(count, bool)
    for step in range(horizon):
        obs[step] = observations_NO
        actions[step] = act(obs[step].reshape(*shape, size)).reshape(count, -1)
        valid[step] = active_N
        clipped_NA = np.clip(actions[step], -1.0, 1.0)
        observations_NO, rewards[step], terminated_N, truncated_N, _ = adapter.step_arrays(
            clipped_NA, None if active_N.all() else active_N
        )
        active_N = active_N & ~(terminated_N | truncated_N)
        if not active_N.any():
            break
    else:
        raise RuntimeError(f"an episode went on after {horizon} steps")

    def arranged(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.swapaxes(0, 1)).reshape(*shape, horizon, *array.shape[2:])

    return Episodes(arranged(obs), arranged(actions), arranged(rewards), arranged(valid))


def task_samples(
    episodes: Episodes, *, gamma: float, gae_lambda: float, device: torch.device
) -> list[TaskSample]:
    """Every task's steps with their advantages, see `task_advantages`."""
    advantages, _ = task_advantages(
        episodes.obs, episodes.reward, episodes.valid, gamma=gamma, gae_lambda=gae_lambda
    )

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)

    return [
        TaskSample(tensor(obs[valid]), tensor(act[valid]), tensor(advantage[valid]))
        for obs, act, advantage, valid in zip(
            episodes.obs, episodes.act, advantages, episodes.valid, strict=True
        )
    ]
