"""Iterations that are divided among actors are those of one process, bit for bit, also if actors are lost."""

import os
import pickle
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

from metarl_agents import resume, train
from metarl_agents.actors.ray_pool import MAX_LOSSES, Actor, RayPool
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.common.pool import Weights, as_arrays, as_tensors, size_in_bytes
from metarl_agents.registry import AGENTS, find_agent
from metarl_agents.run.assembly import assemble

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::metarl_agents.registry.PresetWarning")]
# Hoppers fall, so episodes end early and differ in length; several models are simulated at a time.
POINT, HOPPER = "MetaPoint-Goal-v0", "MetaHopper-Params-v0"
EIGHT_TASKS = {"tasks_per_iteration": "8", "episodes_per_task": "2"}
#: Numbers of actors: those of these agents, and of all others one that divides nothing evenly.
COUNTS = dict.fromkeys(("maml", "promp", "tesp", "rl2", "pearl"), (1, 2, 4))
#: An iteration of slbo is not divided.
DIVIDED = sorted(set(AGENTS) - {"slbo"})
ON_POLICY = [
    name for name in DIVIDED if "episodes_per_task" in find_agent(name).load().config_class().to_dict()
]


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
    changes |= EIGHT_TASKS | {"horizon": "60"} if agent in ON_POLICY else {"capacity_per_task": "400"}
    config = find_agent(agent).config(env_id, "fast", changes)
    return assemble(agent, env_id, config, seed=3, device=torch.device("cpu"), threads=1, pool=pool)


def iterate(parts, iterations=2, before_update=lambda: None):
    """Everything that iterations decide: statistics and losses, and the state at their end."""
    seen = []
    if agent_learns_from_replay := parts.buffer is not None:
        seen.append(parts.collector.collect_initial())
    for _ in range(iterations):
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
    # Simulations whose episode is over still receive actions, which the next reset overwrites. Which they are
    # depends on the longest episode of the process.
    inert = {"environment.physics"}
    for numbers, numbers_2 in ((state.weights, state_2.weights), (state.arrays, state_2.arrays)):
        assert numbers.keys() == numbers_2.keys()
        assert all(np.array_equal(numbers[name], numbers_2[name]) for name in numbers.keys() - inert)
    assert state.values == state_2.values


@pytest.mark.parametrize("agent", DIVIDED)
def test_the_number_of_actors_changes_nothing(agent):
    parts = parts_of(agent)
    expected = iterate(parts)
    parts.env.close()
    assert len(np.unique(expected[0][-1 if agent not in ON_POLICY else 0].lens)) > 3
    for count in COUNTS.get(agent, (3,)):
        pool = LocalPool(count)
        parts = parts_of(agent, pool)
        assert_same(expected, iterate(parts))
        assert "run" in pool.calls
        assert ("on_pieces" in pool.calls) == (agent in ON_POLICY)
        parts.env.close()


@pytest.fixture(scope="module")
def cluster():
    """One Ray for the tests of this module; pools use it."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def kill(pool, number):
    """Kills the process of an actor."""
    os.kill(ray.get(pool.actors[number].__ray_call__.remote(lambda actor: os.getpid())), signal.SIGKILL)


@pytest.mark.process
@pytest.mark.parametrize("agent", ["maml", "pearl"])
def test_a_lost_actor_is_replaced_and_its_part_repeated(agent, cluster):
    """After the rollouts of an iteration, before their use; of MAML also amid an update."""
    iterations = 1 if agent == "maml" else 2
    parts = parts_of(agent, env_id=POINT)
    expected = iterate(parts, iterations)
    parts.env.close()
    pool, messages = RayPool(2), []
    pool.on_loss = messages.append
    parts = parts_of(agent, pool, env_id=POINT)
    each = pool.each

    def each_with_a_loss(method, calls, *, keep=False):
        if calls[0][0] == "curvature_product" and len(messages) == 1:
            kill(pool, 1)
        return each(method, calls, keep=keep)

    pool.each = each_with_a_loss
    killed = iter((0,))
    found = iterate(parts, iterations, before_update=lambda: [kill(pool, number) for number in killed])
    assert_same(expected, found)
    pool.close()
    assert ray.is_initialized()  # it was there before
    lost = [0, 1] if agent == "maml" else [0]
    assert messages == [f"actor {number} was lost; its part of the iteration is repeated" for number in lost]
    assert pool.cpu_seconds() > 0
    assert min(pool.bytes_sent, pool.bytes_received) > 1000
    parts.env.close()


@pytest.mark.process
def test_an_actor_that_is_always_lost_ends_the_run(cluster):
    pool = RayPool(1)
    parts = parts_of("promp", pool, env_id=POINT)
    send = pool._send

    def send_and_kill(number, call):
        reference = send(number, call)
        ray.kill(pool.actors[number])
        return reference

    pool._send = send_and_kill
    with pytest.raises(RuntimeError, match=f"actor 0 was lost {MAX_LOSSES + 1} times in one iteration"):
        parts.collector.collect(n_step=1)
    pool.close()
    parts.env.close()


@pytest.mark.process
def test_a_killed_driver_is_resumed_and_ends_as_a_run_of_one_process(tmp_path, cluster):
    values = parse_overrides(OVERRIDES["promp"]) | EIGHT_TASKS | {"checkpoint_every": "1"}
    settings = list(map("=".join, values.items()))
    steps = 12 * 8 * 2 * 2 * 20
    train("promp", POINT, seed=7, steps=steps, out=tmp_path / "one", overrides=settings, progress=False)
    command = [
        sys.executable,
        "-c",
        "from metarl_agents.cli import main; main()",
        "train",
        "promp",
        POINT,
        "--seed",
        "7",
        "--actors",
        "2",
    ]
    command += [
        "--steps",
        str(steps),
        "--out",
        str(tmp_path / "two"),
        *(x for s in settings for x in ("--set", s)),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        metrics = tmp_path / "two" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill()
    assert metrics.read_bytes().count(b"\n") < 12
    result = resume(tmp_path / "two", progress=False)
    assert result.finished
    assert_same_outcome(tmp_path / "one", tmp_path / "two")


def test_what_cannot_be_divided_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    runner = CliRunner()
    monkeypatch.setattr(RayPool, "start", lambda *arguments: pytest.fail("started"))
    for agent, count, message in (
        ("promp", 9, "at most 8 actors, not 9: the 8 tasks of an iteration are learned from in 8 pieces"),
        ("pearl", 33, "at most 32 actors, not 33: there are num_simulations=32 simulations"),
    ):
        setting = "tasks_per_iteration=8" if agent == "promp" else "num_simulations=32"
        call = ["train", agent, "MetaHopper-Params-v0", "--actors", str(count), "--set", setting]
        result = runner.invoke(app, [*call, "--out", str(tmp_path / "x")])
        assert result.exit_code != 0
        assert message in " ".join(str(result.exception or result.output).split())
        assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="actors compute on CPUs"):
        tiny(tmp_path / "x", device="meta", actors=2)


@pytest.mark.process
def test_too_many_actors_for_the_cluster_are_refused_instead_of_waited_for(cluster):
    with pytest.raises(ConfigError, match="5 actors with 1 thread each need 5 cores, but Ray has 4"):
        parts_of("pearl", RayPool(5), env_id=POINT)


def test_tensors_travel_as_arrays():
    value = {"a": [torch.arange(3.0), (None, "text", 2)], "b": torch.tensor(1.5, dtype=torch.float64)}
    arrays = as_arrays(value)
    assert size_in_bytes(arrays) == 12 + 8
    back = as_tensors(pickle.loads(pickle.dumps(arrays)))
    assert torch.equal(back["a"][0], value["a"][0])
    assert back["a"][1] == (None, "text", 2)
    assert back["b"].dtype == torch.float64
    back["a"][0] += 1
    assert arrays["a"][0].tolist() == [0.0, 1.0, 2.0]
