"""Everything again and again for minutes: memory, descriptors and threads stay what they are."""

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest
from fuzzer import Fuzzer
from test_run import tiny

import metarl_envs
from metarl_agents import evaluate_run, load_agent
from metarl_envs import MetaEnv, evaluation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc"),
]
#: Seconds; METARL_SOAK_SECONDS changes that.
SECONDS = float(os.environ.get("METARL_SOAK_SECONDS", 300))
#: Allocators do not give back everything at once.
SLACK = 0.05


def used():
    """Resident memory in bytes, open descriptors, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def test_nothing_grows(tmp_path):
    ids = metarl_envs.registered_ids()
    rng = np.random.default_rng(0)

    def once(number):
        env_id = ids[number % len(ids)]
        for num in (0, 3):
            fuzzer = Fuzzer(env_id, num, number)
            fuzzer.run(100)
            fuzzer.env.close()
        env = MetaEnv(env_id, render_mode="rgb_array")
        env.reset(seed=int(rng.integers(1000)))
        env.render()
        if number % 2:
            env.close()
        protocol = evaluation.Protocol(adaptation_episodes=1, scored_episodes=1, seeds=(0,))
        evaluation.evaluate(evaluation.ZeroAgent(), "MetaPoint-Goal-v0", protocol)
        if number % len(ids) == 0:
            run = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
            tiny(run, steps=80 * 20 + 180)
            load_agent(run)
            evaluate_run(run, num_tasks=1, seeds=(0,))

    for number in range(2 * len(ids)):  # caches fill
        once(number)
    before, deadline, number, found = used(), time.monotonic() + SECONDS, 0, []
    while time.monotonic() < deadline or number % len(ids):
        once(number)
        number += 1
        if number % len(ids) == 0:
            found.append(used())
    print(f"{number} rounds; before {before}, then {found}")
    memory, descriptors, threads = np.array(found).T
    assert (descriptors <= before[1]).all()
    assert (threads <= before[2]).all()
    half = len(memory) // 2
    assert half > 0
    # The second half against the first: what is kept once does not count, what is kept each time does.
    assert memory[half:].mean() <= memory[:half].mean() * (1.0 + SLACK)
