"""A tiny vector environment whose every number is known beforehand."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

LENGTHS = (5, 3, 6)


class CountingVectorEnv(VectorEnv):
    """Observation: (task, episode count of the simulation, step). Reward: their weighted sum.

    Task k's episodes last LENGTHS[k % 3] steps; episodes of task 1 end in a terminal state, all
    others by their time limit.
    """

    def __init__(self, num_envs: int, mode: AutoresetMode = AutoresetMode.DISABLED) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.mode = mode
        self.single_observation_space = gymnasium.spaces.Box(-1e6, 1e6, (3,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.tasks = np.arange(num_envs)
        self.episode = np.zeros(num_envs, int)
        self.clock = np.zeros(num_envs, int)
        self.over = np.zeros(num_envs, bool)

    def set_tasks(self, tasks: Any, mask: Any = None) -> None:
        self.tasks = np.array(tasks)

    def _observe(self) -> np.ndarray:
        return np.stack([self.tasks, self.episode, self.clock], 1).astype(np.float32)

    def _infos(self) -> dict[str, np.ndarray]:
        return {"task_id": self.tasks.copy(), "dense": 100.0 * self.tasks + self.clock}

    def _restart(self, mask: np.ndarray) -> None:
        self.episode[mask] += 1
        self.clock[mask] = 0
        self.over[mask] = False

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self._restart(mask)
        return self._observe(), self._infos()

    def step(self, actions: np.ndarray, mask: Any = None) -> tuple[Any, ...]:
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        assert not (self.over & mask).any(), "stepped a simulation that has ended"
        self.clock[mask] += 1
        observations, infos = self._observe(), self._infos()
        rewards = observations @ np.array([100.0, 10.0, 1.0]) + actions[:, 0]
        ended = mask & (self.clock >= np.array(LENGTHS)[self.tasks % 3])
        terminated = ended & (self.tasks == 1)
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            finals = np.full(self.num_envs, None, object)
            for row in np.flatnonzero(ended):
                finals[row] = observations[row].copy()
            final_infos = infos
            self._restart(ended)
            infos = self._infos() | {"final_obs": finals, "final_info": final_infos}
            observations = self._observe()
        else:
            self.over |= ended
        return observations, rewards * mask, terminated, ended & ~terminated, infos
