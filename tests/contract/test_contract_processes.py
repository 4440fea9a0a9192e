"""Environments in other processes: fork with live threads, spawn, Gymnasium's workers.

Everything that could hang runs in a process group of its own with a time limit, and is killed at it.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import contract_helpers
import pytest
from contract_helpers import assert_same

pytestmark = pytest.mark.process
LIMIT = 120  # s

FORKING = """
import multiprocessing, os, pickle, sys
import gymnasium
import metarl_envs
import contract_helpers
from contract_helpers import random_actions, rollout

how, selection = sys.argv[1:]
made = []
for i, v in enumerate(getattr(contract_helpers, selection)):
    family_id, arguments = v.values
    envs = metarl_envs.MetaVectorEnv(family_id, 4, num_threads=2, max_episode_steps=6, **arguments)
    single = gymnasium.make(family_id, max_episode_steps=6, **arguments)
    for env in (envs, single):
        rollout(env, random_actions(env, 8 if env is envs else 4), seed=i)
    made.append((envs, single))

def go_on():
    results = []
    for envs, single in made:
        results.append(rollout(envs, random_actions(envs, 14, seed=1), reset=False))
        results.append(rollout(envs, random_actions(envs, 3, seed=2), seed=9))
        results.append(envs.get_state())
        results.append(rollout(single, random_actions(single, 3, seed=1)))
        envs.close()
    return results

def child(name):
    results = go_on()
    with open(name, "wb") as file:
        pickle.dump(results, file)

if how == "os.fork":
    children = []
    for name in ("child-0", "child-1"):
        pid = os.fork()
        if pid == 0:
            child(name)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
elif how == "multiprocessing":
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(n,)) for n in ("child-0", "child-1")]
    for process in children:
        process.start()
    for process in children:
        process.join()
        assert process.exitcode == 0
child("parent")
"""

WORKERS = """
import functools, pickle, sys
import gymnasium
import metarl_envs
from gymnasium.vector import AsyncVectorEnv
import contract_helpers
from contract_helpers import make_native, random_actions, rollout, single_factories, some_tasks

if __name__ == "__main__":
    context, selection = sys.argv[1:]
    results = []
    for family_id in getattr(contract_helpers, selection):
        tasks = some_tasks(family_id, 2)
        native = make_native(family_id, 2, tasks=tasks, max_episode_steps=5, num_threads=2)
        rollout(native, random_actions(native, 2), seed=0)  # its threads live while workers start
        workers = AsyncVectorEnv(single_factories(family_id, tasks, max_episode_steps=5), context=context)
        actions = random_actions(native, 12)
        results.append((rollout(native, actions, seed=3), rollout(workers, actions, seed=3)))
        workers.close()
    pickle.dump(results, open("results", "wb"))
"""

SPAWNING = """
import multiprocessing, pickle, sys
import contract_helpers
import metarl_envs
from contract_helpers import random_actions, rollout

def child(connection, env):
    connection.send(rollout(env, random_actions(env, 9), reset=False))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    results = []
    for family_id in getattr(contract_helpers, sys.argv[1]):
        envs = metarl_envs.MetaVectorEnv(family_id, 3, num_threads=2, max_episode_steps=6)
        rollout(envs, random_actions(envs, 7, seed=4), seed=0)
        here, there = context.Pipe()
        process = context.Process(target=child, args=(there, envs))
        process.start()
        received = here.recv()
        process.join()
        results.append((received, rollout(envs, random_actions(envs, 9), reset=False)))
    pickle.dump(results, open("results", "wb"))
"""


def _run(script, *arguments, folder):
    """Runs a script with a time limit, and afterwards nothing of it is left."""
    (folder / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, error = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs: not done after {LIMIT} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    "selection",
    [
        "KIND_VARIANTS",
        pytest.param("BODY_VARIANTS", marks=pytest.mark.slow),
        pytest.param("VARIANTS", marks=pytest.mark.slow),
    ],
)
def test_forked_children_go_on_with_the_same_numbers(tmp_path, selection):
    """Stepped, multi-threaded native environments are inherited by two children and used in all three.

    What they return is what they return in a process that never forks.
    """
    results = []
    for how, names in (
        ("no fork", ["parent"]),
        ("os.fork", ["parent", "child-0", "child-1"]),
        ("multiprocessing", ["parent", "child-0", "child-1"]),
    ):
        folder = tmp_path / how
        folder.mkdir()
        _run(FORKING, how, selection, folder=folder)
        results += [pickle.loads((folder / name).read_bytes()) for name in names]
    assert len(results[0]) == 4 * len(getattr(contract_helpers, selection))
    for other in results[1:]:
        assert_same(other, results[0])


# A spawned process imports everything anew, which takes seconds.
@pytest.mark.parametrize(
    ("context", "selection"),
    [
        ("fork", "KIND_IDS"),
        pytest.param("fork", "BODY_IDS", marks=pytest.mark.slow),
        ("spawn", "SPAWN_IDS"),
        pytest.param("spawn", "BODY_IDS", marks=pytest.mark.slow),
    ],
)
def test_gymnasiums_workers(context, selection, tmp_path):
    """AsyncVectorEnv, started while a multi-threaded native environment lives in the parent."""
    _run(WORKERS, context, selection, folder=tmp_path)
    results = pickle.loads((tmp_path / "results").read_bytes())
    assert len(results) == len(getattr(contract_helpers, selection))
    for native, workers in results:
        assert_same(native, workers)


@pytest.mark.parametrize("selection", ["SPAWN_IDS", pytest.param("BODY_IDS", marks=pytest.mark.slow)])
def test_spawned_children_go_on_with_the_same_numbers(tmp_path, selection):
    """A native environment travels to a spawned process as an argument."""
    _run(SPAWNING, selection, folder=tmp_path)
    results = pickle.loads((tmp_path / "results").read_bytes())
    assert len(results) == len(getattr(contract_helpers, selection))
    for received, expected in results:
        assert_same(received, expected)
