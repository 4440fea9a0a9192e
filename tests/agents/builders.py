"""Small algorithms and data for tests of update rules."""

import numpy as np
import torch
from gymnasium.spaces import Box

from metarl_agents.common.context import Context
from metarl_agents.replay.buffer import TaskReplayBuffer

OBS, ACT = 4, 2


def box(size):
    return Box(-1.0, 1.0, (size,), np.float32)


def build(algorithm, config, *, seed=0, num_tasks=7):
    return algorithm.from_config(
        config,
        Context(
            observation_space=box(OBS),
            action_space=box(ACT),
            task_space=box(1),
            num_tasks=num_tasks,
            seed=seed,
            device=torch.device("cpu"),
        ),
    )


def filled_buffer(tasks=7, length=10, capacity=40, seed=1, shift=0.0):
    """A buffer with an episode of every task; `shift` moves observations and rewards."""
    buffer = TaskReplayBuffer(tasks, capacity, OBS, ACT, generator=np.random.default_rng(0))
    g = np.random.default_rng(seed)
    data = {
        "obs": g.normal(size=(tasks, length, OBS)) + shift,
        "act": g.uniform(-1, 1, (tasks, length, ACT)),
        "rew": g.normal(size=(tasks, length)) + shift,
        "obs_next": g.normal(size=(tasks, length, OBS)) + shift,
        "terminated": np.arange(length) == np.full((tasks, 1), length - 1),
        "truncated": np.zeros((tasks, length), bool),
    }
    buffer.add_episodes(np.arange(tasks), np.full(tasks, length), data, to_context=False)
    return buffer


def everything(algorithm):
    """Copies of all weights and of the optimisers' state, by name."""
    state = {f"weight.{k}": v.clone() for k, v in algorithm.network_state().items()}
    for number, optimiser in enumerate(algorithm.optimisers()):
        for index, entries in optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{number}.{index}.{k}": v.clone() for k, v in entries.items()}
    return state


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
