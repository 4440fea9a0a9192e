"""Rollouts of a conditioned policy in lockstep, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from metarl_agents.common.vector_adapter import GymVectorEnvAdapter, box_width
from metarl_agents.replay.buffer import IntArray
from metarl_agents.replay.policy import MetaPolicy

Staged = dict[str, NDArray[Any]]


class RunsRollouts(Protocol):
    """What runs rollouts: `Rollouts` in this process, or several processes."""

    #: Steps by column, time first: (H, N, ...), and (H + 1, N, O) observations.
    staged: Staged

    def run(self, tasks: Sequence[Any], count: int, limit: int) -> IntArray:
        """Runs one episode in each of the first `count` simulations, for which the policy is prepared.

        Args:
            tasks: task of each of the N simulations.
            count: number R of rollouts.
            limit: time limit in steps, at most the horizon.

        Returns:
            The lengths (R,) of the episodes, whose steps are in `staged`.

        Raises:
            RuntimeError: when an episode goes on at the horizon.
        """


class Rollouts:
    """Runs rollouts in this process: all of them, or those of its own simulations.

    The policy acts for all rollouts in any case. The products of a step have the same shape then, and the
    generator gives the same numbers, so the actions do not depend on the number of processes, bit for bit.
    Only the simulation is divided, which takes most of the time.

    Args:
        policy: the acting policy.
        env: adapter over the simulations of this process, in autoreset mode DISABLED.
        simulations: number N of the simulations of all processes.
        horizon: time limit of an episode in steps.
        info_keys: infos to store, and columns of the policy.
        rows: the simulations of this process; all by default.
    """

    def __init__(
        self,
        policy: MetaPolicy,
        env: GymVectorEnvAdapter,
        *,
        simulations: int,
        horizon: int,
        info_keys: Sequence[str],
        rows: range | None = None,
    ) -> None:
        self.policy = policy
        self.env = env
        self.horizon = horizon
        self.info_keys = tuple(info_keys)
        own = rows or range(simulations)
        self.numbers = np.array(own)
        self.rows = slice(own.start, own.stop, own.step)
        self.staged = staging(env, simulations, horizon, info_keys)

    def run(self, tasks: Sequence[Any], count: int, limit: int) -> IntArray:
        """See `RunsRollouts.run`; other processes' rollouts have length 0."""
        env, policy, staged, rows = self.env, self.policy, self.staged, self.rows
        device = policy.generator.device
        env.venv.set_tasks([tasks[number] for number in self.numbers])
        active = self.numbers < count
        if not active.any():
            return np.zeros(count, np.int64)
        # Simulations without a rollout are not stepped.
        observations, _ = env.reset_arrays(None if active.all() else active)
        staged["obs"][0, rows] = observations
        actions_NA = np.zeros_like(staged["act"][0])
        lengths = np.zeros(len(self.numbers), np.int64)
        for step in range(limit):
            obs_RO = torch.from_numpy(staged["obs"][step, :count]).to(device)
            actions_NA[:count] = policy.act(obs_RO, None, deterministic=False).cpu().numpy()
            observations, rewards, terminated, truncated, infos = env.step_arrays(actions_NA[rows], active)
            staged["obs"][step + 1, rows] = observations
            staged["act"][step, rows] = actions_NA[rows]
            staged["rew"][step, rows] = rewards
            staged["terminated"][step, rows] = terminated
            staged["truncated"][step, rows] = truncated
            for key in self.info_keys:
                if key in policy.column_names:
                    staged[key][step, :count] = policy.columns[key].cpu().numpy()
                else:
                    staged[key][step, rows] = infos[key]
            lengths += active
            active = active & ~(terminated | truncated)
            if not active.any():
                break
            policy.observe(
                obs_RO,
                torch.from_numpy(actions_NA[:count]).to(device),
                torch.from_numpy(staged["rew"][step, :count].astype(np.float32)).to(device),
            )
        else:
            if limit == self.horizon:
                raise RuntimeError(
                    f"an episode continued after {limit} steps: the collector's horizon is not "
                    "that of the environment"
                )
            staged["truncated"][limit - 1, self.numbers[active]] = True
        lengths_N = np.zeros(len(tasks), np.int64)
        lengths_N[rows] = lengths
        return lengths_N[:count]


def staging(env: GymVectorEnvAdapter, simulations: int, horizon: int, info_keys: Sequence[str]) -> Staged:
    """Empty arrays for the steps of N rollouts. Time comes first, so that a step writes one block."""
    observations = box_width(env.venv.single_observation_space)
    actions = box_width(env.venv.single_action_space)
    staged: Staged = {
        "obs": np.zeros((horizon + 1, simulations, observations), np.float32),
        "act": np.zeros((horizon, simulations, actions), np.float32),
        "rew": np.zeros((horizon, simulations), np.float64),
        "terminated": np.zeros((horizon, simulations), bool),
        "truncated": np.zeros((horizon, simulations), bool),
    }
    return staged | {key: np.zeros((horizon, simulations), np.float64) for key in info_keys}
