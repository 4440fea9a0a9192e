"""An environment, a family and an agent whose episodes are known, for the tests of the evaluation."""

from types import SimpleNamespace

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

import metarl_envs
from metarl_envs.evaluation import (
    Protocol,
    ZeroAgent,
    evaluate,
)

HORIZON = 6
# A task is (steps until it terminates by itself, reward per step, step of the only success).
FAKE_TASKS = ((2, 1.0, 2), (9, -3.0, 4), (4, 0.5, 5))


class FakeVectorEnv:
    """Episodes whose lengths and rewards are known, with the contract of `MetaVectorEnv`."""

    single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, family, num_envs, *, split, tasks, observe_task, autoreset_mode, bonus=0.0):
        assert (split, autoreset_mode, num_envs) == ("test", AutoresetMode.DISABLED, len(tasks))
        self.vectors = np.array([task.parameters for task in tasks])
        self.observe_task, self.bonus = observe_task, bonus
        self.single_observation_space = gymnasium.spaces.Box(-9, 9, (5 if observe_task else 2,), np.float32)
        self.seeds, self.closed = [], False
        family.environments.append(self)

    def reset(self, seed=None):
        self.seeds.append(seed)
        if seed is not None:
            self.rngs = [np.random.default_rng(s) for s in seed]
        self.starts = np.array([rng.uniform() for rng in self.rngs])
        self.elapsed = np.zeros(len(self.vectors), int)
        self.ended = np.zeros(len(self.vectors), bool)
        return self._observations(), self._info(np.zeros(len(self.vectors)), self.ended)

    def step(self, actions, mask=None):
        moving = np.ones(len(self.vectors), bool) if mask is None else mask
        assert not (moving & self.ended).any()
        self.elapsed = self.elapsed + moving
        rewards = np.where(moving, self.vectors[:, 1] + self.bonus + actions.sum(axis=1), 0.0)
        terminated = moving & (self.elapsed == self.vectors[:, 0])
        truncated = moving & (self.elapsed == HORIZON)
        self.ended = self.ended | terminated | truncated
        info = self._info(rewards, terminated)
        for key in ("reward_big", "reward_small", "success", "diverged"):
            info[key][~moving] = 1  # nobody may look at the rows of those who wait
        return self._observations(), rewards, terminated, truncated, info

    def _observations(self):
        columns = [self.starts[:, None], self.elapsed[:, None]]
        if self.observe_task:
            columns.append(self.vectors)
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _info(self, rewards, diverged):
        count = len(self.vectors)
        return {
            "reward_big": 2 * rewards,
            "reward_small": -rewards,
            "success": self.elapsed == self.vectors[:, 2],
            "diverged": diverged & (self.vectors[:, 0] == 4),
            "task_id": np.arange(count),
            "_task_id": np.ones(count, bool),
        }

    def close(self):
        self.closed = True


def fake_family():
    tasks = tuple(
        metarl_envs.Task("Fake-v0", "test", index, parameters) for index, parameters in enumerate(FAKE_TASKS)
    )
    family = SimpleNamespace(
        id="Fake-v0",
        horizon=HORIZON,
        splits={"test": None},
        train_equals_test=False,
        tasks=lambda split: (metarl_envs.Family.split(family, split), tasks)[1],
        model_checksum=lambda: "abc",
        environments=[],
    )
    return family


class Recorder:
    """Zero actions; keeps everything it is shown."""

    def __init__(self):
        self.calls, self.transitions, self.trials, self.starts = [], [], [], []

    def begin_trial(self, trial):
        self.calls.append("trial")
        self.trials.append(trial)

    def act(self, observations):
        self.calls.append("act")
        self.starts.append(observations[:, 0].copy())
        return np.zeros((len(observations), 2))

    def observe(self, transition):
        self.calls.append("observe")
        self.transitions.append(transition)

    def end_episode(self):
        self.calls.append("end")


def fake_report(agent=None, **protocol):
    return evaluate(agent or ZeroAgent(), fake_family(), Protocol(**protocol), make_vector_env=FakeVectorEnv)
