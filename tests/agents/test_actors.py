"""Iterations that are divided among actors are those of one process, bit for bit, also if actors are lost."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import ray
import torch
from test_run import OVERRIDES, assert_same_outcome, tiny
from typer.testing import CliRunner

from metarl_agents import resume
from metarl_agents.actors.ray_pool import MAX_LOSSES, Actor, RayPool
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.common.pool import Weights, as_arrays, as_tensors, size_in_bytes
from metarl_agents.registry import AGENTS, find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.trials.collector import TrialCollector

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::metarl_agents.registry.PresetWarning")]
# Hoppers fall, so episodes end early and differ in length; several models are simulated at a time.
POINT, HOPPER = "MetaPoint-Goal-v0", "MetaHopper-Params-v0"
EIGHT_TASKS = {"tasks_per_iteration": "8", "episodes_per_task": "2"}
ON_POLICY = [name for name in AGENTS if "episodes_per_task" in find_agent(name).load().config_class().to_dict()]


class LocalPool:
    """Actors in this process. What travels is pickled, as between processes."""

    def __init__(self, count):
        self.count = count
        self.calls = []
        self.weights = Weights()

    def start(self, common, shares, simulations):
        self.actors = [
            Actor(**common, share=share, simulations=number)
            for share, number in zip(shares, simulations, strict=True)
        ]

    def begin(self):
        pass

    def load(self, state):
        if self.weights.changed(state):
            for actor in self.actors:
                actor.call("load", as_arrays(self.weights.sent))

    def each(self, method, calls, *, keep=False):
        self.calls.append(method)
        calls = pickle.loads(pickle.dumps(calls))
        results = [self.actors[number].call(method, *arguments)[0] for number, arguments in calls.items()]
        return pickle.loads(pickle.dumps(results))


def parts_of(agent, pool=None, env_id=HOPPER, **overrides):
    changes = parse_overrides(OVERRIDES[agent]) | overrides
    changes |= EIGHT_TASKS if agent in ON_POLICY else {"capacity_per_task": "400"}
    config = find_agent(agent).config(env_id, "fast", changes)
    return assemble(agent, env_id, config, seed=3, device=torch.device("cpu"), threads=1, pool=pool)


def iterate(parts, before_update=lambda: None):
    """Everything that two iterations decide: statistics and losses, and the state at their end."""
    seen = []
    if agent_learns_from_replay := parts.buffer is not None:
        seen.append(parts.collector.collect_initial())
    for _ in range(2):
        seen.append(parts.collector.collect(n_step=1))
        before_update()
        if not agent_learns_from_replay:
            seen += [{k: float(v) for k, v in losses.items()} for losses in parts.algorithm.outer_steps()]
    return seen, parts.state()


def assert_same(one, other):
    (seen, state), (seen_2, state_2) = one, other
    for a, b in zip(seen, seen_2, strict=True):
        if isinstance(a, dict):
            assert a == b
        else:
            assert np.array_equal(a.returns, b.returns)
            assert np.array_equal(a.lens, b.lens)
    # Simulations whose episode is over still receive actions, which the next reset overwrites. How many depends
    # on the longest episode of the process.
    inert = {"environment.physics"}
    for numbers, numbers_2 in ((state.weights, state_2.weights), (state.arrays, state_2.arrays)):
        assert numbers.keys() == numbers_2.keys()
        assert all(np.array_equal(numbers[name], numbers_2[name]) for name in numbers.keys() - inert)
    assert state.values == state_2.values


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_the_number_of_actors_changes_nothing(agent):
    parts = parts_of(agent)
    expected = iterate(parts)
    parts.env.close()
    assert len(np.unique(expected[0][-1 if agent not in ON_POLICY else 0].lens)) > 3
    for count in (1, 2, 4):
        pool = LocalPool(count)
        parts = parts_of(agent, pool)
        assert_same(expected, iterate(parts))
        assert "run" in pool.calls
        assert ("on_pieces" in pool.calls) == (agent in ON_POLICY)
        parts.env.close()
