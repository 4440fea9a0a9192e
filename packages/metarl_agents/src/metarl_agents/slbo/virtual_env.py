"""Learned dynamics as a vector environment: real starting states, predicted steps, exact rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

import metarl_envs
from metarl_agents.slbo.dynamics import Dynamics, Folded

Array = NDArray[Any]


class VirtualVectorEnv(VectorEnv[Array, Array, Array]):
    """N episodes of one task in learned dynamics; simulations that have ended must be reset.

    Starting states come from resets of real simulations, which take no step. Reward and termination are
    functions of the transition (`metarl_envs.RewardModel`).

    Args:
        starts: real simulations in autoreset mode DISABLED, as many as there are episodes; they stay open.
        reward_model: reward and termination of the family.
        dynamics: the learned dynamics.
        horizon: time limit of an episode in steps.

    Attributes:
        folded: the dynamics as `refresh` has last taken them over.
        task_vector: parameters (P,) of the task.
        seed: seed of the starting states at the next `begin`; None to go on with their generators.
    """

    def __init__(
        self,
        starts: metarl_envs.MetaVectorEnv,
        reward_model: metarl_envs.RewardModel,
        dynamics: Dynamics,
        horizon: int,
    ) -> None:
        self.starts, self.reward_model, self.dynamics = starts, reward_model, dynamics
        self.horizon = horizon
        self.num_envs = starts.num_envs
        self.single_observation_space = starts.single_observation_space
        self.single_action_space = starts.single_action_space
        self.observation_space, self.action_space = starts.observation_space, starts.action_space
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.device = dynamics.weights[0].device
        self.elapsed_N = np.zeros(self.num_envs, np.int64)
        self.ended_N = np.ones(self.num_envs, bool)
        self.observations_NO: NDArray[np.float32] = np.zeros(
            (self.num_envs, len(dynamics.states.mean)), np.float32
        )
        self.seed: int | None = None
        self.set_task(starts.family.task("train", 0))
        self.refresh()

    def set_task(self, task: metarl_envs.Task) -> None:
        """The task of all episodes from the next reset on."""
        self.starts.set_tasks([task] * self.num_envs)
        self.task_vector = task.vector

    def refresh(self) -> None:
        """Takes over the dynamics as they are now."""
        self.folded: Folded = self.dynamics.folded()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts all episodes, or those of `options={"reset_mask": ...}`, in states of real resets."""
        observations_NO, infos = self.starts.reset(seed=seed, options=options)
        chosen_N = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        self.observations_NO = np.where(chosen_N[:, None], observations_NO, self.observations_NO)
        self.elapsed_N[chosen_N], self.ended_N[chosen_N] = 0, False
        return self.observations_NO, infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Predicts a step of every episode.

        Raises:
            ValueError: when an episode has ended and was not reset.
        """
        if self.ended_N.any():
            raise ValueError(
                f"simulation {int(self.ended_N.argmax())} has ended; reset it before the next step"
            )
        before_NO = self.observations_NO
        predicted = self.folded(
            torch.from_numpy(before_NO).to(self.device),
            torch.from_numpy(np.asarray(actions, np.float32)).to(self.device),
        )
        self.observations_NO = predicted.cpu().numpy()
        reward_N = self.rewards(before_NO, actions, self.observations_NO)
        terminated_N = self.reward_model.terminated(self.observations_NO)
        self.elapsed_N += 1
        truncated_N = (self.elapsed_N >= self.horizon) & ~terminated_N
        self.ended_N = terminated_N | truncated_N
        return self.observations_NO, reward_N, terminated_N, truncated_N, {}

    def rewards(self, obs_BO: Array, act_BA: Array, next_obs_BO: Array) -> NDArray[np.float64]:
        """Rewards (B,) of transitions of the task."""
        tasks_BP = np.broadcast_to(self.task_vector, (len(obs_BO), len(self.task_vector)))
        return self.reward_model.reward(obs_BO, act_BA, next_obs_BO, tasks_BP)

    # -- tensors: the fast path, used by `rollouts.run` ----------------------------------------------

    def begin(self) -> Tensor:
        """Starts all episodes; returns their observations (N, O)."""
        seed, self.seed = self.seed, None
        return torch.from_numpy(self.reset(seed=seed)[0]).to(self.device)

    def advance(self, obs_NO: Tensor, act_NA: Tensor) -> tuple[Tensor, Array]:
        """Predicted next observations (N, O), and which of them are terminal (N,)."""
        next_NO = self.folded(obs_NO, act_NA)
        return next_NO, self.reward_model.terminated(next_NO.cpu().numpy())

    def restart(self, ended_N: Array, obs_NO: Tensor) -> Tensor:
        """Observations (N, O) with new starting states where episodes have ended."""
        started_NO, _ = self.starts.reset(options={"reset_mask": ended_N})
        chosen_N1 = torch.from_numpy(ended_N).to(self.device)[:, None]
        return torch.where(chosen_N1, torch.from_numpy(started_NO).to(self.device), obs_NO)
