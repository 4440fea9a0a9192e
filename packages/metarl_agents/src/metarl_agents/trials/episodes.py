"""Batches of whole episodes under per-task policies, gathered from the native vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.networks.functional import Gaussian
from metarl_agents.trials.advantages import task_advantages

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Observe = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]], None]


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
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode (T, E)."""
        lengths: NDArray[np.int64] = self.valid.sum(-1)
        return lengths

    def rows(self, chosen: slice) -> Episodes:
        """The same of some tasks."""
        return Episodes(self.obs[chosen], self.act[chosen], self.reward[chosen], self.valid[chosen])


def executed(actions_NA: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """What the environment is given for actions (..., A) of a policy: divided by the scale, clipped to +-1.

    ProMP's code, and MAML's in it, runs its policies with a scale of 10: at the standard deviation of 1
    that they start with, a scale of 1 would clip a third of all actions.
    """
    actions: NDArray[np.float32] = (actions_NA / np.float32(scale)).clip(-1.0, 1.0)
    return actions


class Sample(NamedTuple):
    """The steps of T tasks with the policy that took them, padded to M steps each.

    Attributes:
        obs: observations (T, M, O).
        act: actions (T, M, A).
        advantage: advantages (T, M).
        weight: 1 / number of the task's steps (T, M), so that a weighted sum is a mean; 0 in padding.
        old: the action distributions when the steps were taken.
        old_log_prob: log-density of the actions then (T, M).
        memory: what the policy remembered of each task then.
    """

    obs: Tensor
    act: Tensor
    advantage: Tensor
    weight: Tensor
    old: Gaussian
    old_log_prob: Tensor
    memory: Any = None

    def rows(self, chosen: slice) -> Sample:
        """The same of some tasks, without the padding that only the longer other tasks need."""
        weight = self.weight[chosen]
        steps = int((weight > 0).any(0).nonzero()[-1, 0]) + 1
        mean, log_std = self.old
        per_step = log_std.dim() == 3 and log_std.shape[1] > 1
        old = Gaussian(mean[chosen, :steps], log_std[chosen, :steps] if per_step else log_std[chosen])
        memory = None if self.memory is None else self.memory.rows(chosen)
        return Sample(
            self.obs[chosen, :steps],
            self.act[chosen, :steps],
            self.advantage[chosen, :steps],
            weight[:, :steps],
            old,
            self.old_log_prob[chosen, :steps],
            memory,
        )

    def steps(self, chosen_TM: Tensor) -> Sample:
        """The same of some steps (T, m) of each task, all weighted alike again."""

        def pick(tensor: Tensor) -> Tensor:
            index = chosen_TM if tensor.dim() == 2 else chosen_TM[..., None].expand(-1, -1, tensor.shape[-1])
            return tensor.gather(1, index)

        weight = pick(self.weight)
        log_std = self.old.log_std
        old = Gaussian(pick(self.old.mean), log_std if log_std.shape[1] == 1 else pick(log_std))
        return Sample(
            pick(self.obs),
            pick(self.act),
            pick(self.advantage),
            weight / weight.sum(-1, keepdim=True).clamp(min=1e-12),
            old,
            pick(self.old_log_prob),
            self.memory,
        )


def collect_episodes(
    adapter: GymVectorEnvAdapter,
    tasks: Sequence[Any],
    episodes: int,
    horizon: int,
    act: Act,
    observe: Observe | None = None,
    action_scale: float = 1.0,
    seed: int | None = None,
) -> Episodes:
    """One episode in each of T x E simulations, stepped together.

    Args:
        adapter: adapter over an environment with T x E simulations in autoreset mode DISABLED.
        tasks: the T tasks; simulations of one task lie side by side.
        episodes: episodes E of each.
        horizon: most steps of an episode.
        act: actions (T E, A) for observations (T E, O). They are kept as they are in the batch.
        observe: takes in observations, actions and rewards of a step, and which rollouts took it.
        action_scale: what the environment is given of an action, see `executed`.
        seed: simulation i is seeded with `seed + i`; None continues the generators.

    Raises:
        ValueError: when the number of simulations is another.
        RuntimeError: when an episode goes on beyond the horizon.
    """
    count = len(tasks) * episodes
    if adapter.env_num != count:
        raise ValueError(
            f"{len(tasks)} tasks with {episodes} episodes need {count} simulations, not {adapter.env_num}"
        )
    adapter.venv.set_tasks([task for task in tasks for _ in range(episodes)])
    observations_NO, _ = adapter.reset_arrays(None, seed)
    space = adapter.venv.single_action_space
    obs = np.zeros((horizon, *observations_NO.shape), np.float32)
    actions = np.zeros((horizon, count, space.shape[0]), np.float32)
    rewards = np.zeros((horizon, count), np.float64)
    valid = np.zeros((horizon, count), bool)
    active_N = np.ones(count, bool)
    for step in range(horizon):
        obs[step] = observations_NO
        actions[step] = act(obs[step])
        valid[step] = active_N
        observations_NO, rewards[step], terminated_N, truncated_N, _ = adapter.step_arrays(
            executed(actions[step], action_scale), None if active_N.all() else active_N
        )
        if observe is not None:
            observe(obs[step], actions[step], rewards[step], valid[step])
        active_N = active_N & ~(terminated_N | truncated_N)
        if not active_N.any():
            break
    else:
        raise RuntimeError(f"an episode went on after {horizon} steps")

    def arranged(array: NDArray[Any]) -> NDArray[Any]:
        shape = (len(tasks), episodes, horizon, *array.shape[2:])
        return np.ascontiguousarray(array.swapaxes(0, 1)).reshape(shape)

    return Episodes(arranged(obs), arranged(actions), arranged(rewards), arranged(valid))


class Steps(NamedTuple):
    """A `Sample` before it is known under which policy its actions were drawn."""

    obs: Tensor
    act: Tensor
    advantage: Tensor
    weight: Tensor


def task_steps(
    episodes: Episodes, *, gamma: float, gae_lambda: float, standardise: bool = True, device: torch.device
) -> Steps:
    """Every task's steps with their advantages, see `task_advantages`, in the order of the episodes."""
    advantages_TEH, _ = task_advantages(
        episodes.obs,
        episodes.reward,
        episodes.valid,
        gamma=gamma,
        gae_lambda=gae_lambda,
        standardise=standardise,
    )
    tasks = len(advantages_TEH)
    valid_TM = episodes.valid.reshape(tasks, -1)
    counts_T = valid_TM.sum(1)
    weights_TM = valid_TM / counts_T[:, None]
    columns = [
        array.reshape(tasks, valid_TM.shape[1], -1).astype(np.float32, copy=False)
        for array in (episodes.obs, episodes.act, advantages_TEH, weights_TM)
    ]
    obs, act, advantage, weight = (
        torch.from_numpy(column).to(device) for column in packed(columns, valid_TM)
    )
    return Steps(obs, act, advantage[..., 0], weight[..., 0])


def packed(columns: Sequence[NDArray[Any]], valid_TM: NDArray[np.bool_]) -> list[NDArray[Any]]:
    """Columns (T, M, ...) with the steps that happened first, cut to the longest row's number of them.

    What is left of shorter rows is padding, steps that did not happen.
    """
    if valid_TM.all():
        return list(columns)
    order_TM = np.argsort(~valid_TM, axis=1, kind="stable")[:, : valid_TM.sum(1).max()]
    return [np.take_along_axis(column, order_TM[..., None], 1) for column in columns]
