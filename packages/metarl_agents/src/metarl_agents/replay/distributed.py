"""Rollouts whose simulations are divided among processes; updates stay in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl_agents.common.pool import Pool, as_arrays, as_tensors
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.replay.buffer import IntArray
from metarl_agents.replay.policy import MetaPolicy
from metarl_agents.replay.rollouts import Rollouts, Staged


def rows_of(state: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """The state of some simulations of a `MetaVectorEnv`."""
    return {key: value if key.startswith("np_random") else value[rows] for key, value in state.items()}


class RolloutWorker:
    """What a process does with its simulations.

    Args:
        rollouts: runs the rollouts in its simulations.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def load(self, state: dict[str, Any]) -> None:
        """Takes over the policy's weights."""
        self.rollouts.policy.load_state_dict(as_tensors(state))

    def run(
        self,
        prepared: dict[str, Any],
        generator: NDArray[np.uint8],
        env_state: dict[str, Any],
        tasks: Sequence[Any],
        count: int,
        limit: int,
    ) -> tuple[IntArray, Staged, NDArray[np.uint8], dict[str, Any]]:
        """Runs its rollouts.

        Args:
            prepared: what `MetaPolicy.prepared` returned.
            generator: state of the policy's generator.
            env_state: state of its simulations.
            tasks: see `RunsRollouts.run`, as `count` and `limit`.
            count: number of rollouts of all processes.
            limit: time limit.

        Returns:
            Lengths (R,), the steps of its rollouts, and the new states of generator and simulations.
        """
        rollouts, policy = self.rollouts, self.rollouts.policy
        policy.prepare(as_tensors(prepared), count)
        policy.generator.set_state(torch.from_numpy(generator.copy()))
        rollouts.env.venv.set_state(env_state)
        lengths_R = rollouts.run(tasks, count, limit)
        steps = int(lengths_R.max())
        staged = {
            key: column[: steps + (key == "obs"), rollouts.rows] for key, column in rollouts.staged.items()
        }
        return lengths_R, staged, policy.generator.get_state().numpy(), rollouts.env.venv.get_state()


class DistributedRollouts:
    """Divides the simulations of rollouts among processes.

    Args:
        policy: the policy that learns.
        env: adapter over as many simulations as all processes have together. It is not stepped; it has
            their state between rollouts, so that a run can be continued by any number of processes.
        pool: the processes.
        shares: the simulations of each process.
        staged: empty arrays for the steps.
    """

    def __init__(
        self,
        policy: MetaPolicy,
        env: GymVectorEnvAdapter,
        pool: Pool,
        shares: Sequence[range],
        staged: Staged,
    ) -> None:
        self.policy = policy
        self.env = env
        self.pool = pool
        self.rows = [slice(share.start, share.stop, share.step) for share in shares]
        self.staged = staged

    def run(self, tasks: Sequence[Any], count: int, limit: int) -> IntArray:
        """See `RunsRollouts.run`."""
        policy, venv = self.policy, self.env.venv
        self.pool.begin()
        self.pool.load(policy.state_dict())
        state = venv.get_state()
        shared = (as_arrays(policy.prepared()), policy.generator.get_state().numpy())
        # Those without a rollout, too: their simulations get the same tasks as in one process.
        calls = {
            number: (*shared, rows_of(state, rows), tasks, count, limit)
            for number, rows in enumerate(self.rows)
        }
        lengths_R = np.zeros(count, np.int64)
        for number, found in zip(calls, self.pool.each("run", calls), strict=True):
            lengths, staged, generator, env_state = found
            # The one that ran longest has drawn as many numbers as one process would have.
            if lengths.max() > lengths_R.max():
                policy.generator.set_state(torch.from_numpy(generator.copy()))
            lengths_R += lengths
            rows = self.rows[number]
            for key, column in staged.items():
                self.staged[key][: len(column), rows] = column
            for key in state:
                if not key.startswith("np_random"):
                    state[key][rows] = env_state[key]
        venv.set_state(state)
        return lengths_R
