"""Rendering in forked and spawned processes and in threads. Each case is a process that must end."""

import os
import subprocess
import sys

import pytest

from metarl_envs import MetaEnv
from metarl_envs.simulation import rendering

pytestmark = [pytest.mark.process, pytest.mark.long]

START = """
import os, sys, threading
import gymnasium, numpy as np
import metarl_envs

def drawn():
    env = metarl_envs.MetaEnv("MetaHalfCheetah-Vel-v0", render_mode="rgb_array")
    env.reset(seed=0)
    return env, env.render()

def same(frame, other):
    assert (frame != other).any(-1).mean() < 0.005
"""
FORK = """
env, frame = drawn()
child = os.fork()
if not child:
    {in_child}
    sys.exit(3)  # with everything that happens at exit
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
same(env.render(), frame)
"""
VECTOR = """
{before}
envs = gymnasium.make_vec(
    "MetaHalfCheetah-Vel-v0", num_envs=2, vectorization_mode="async", render_mode="rgb_array"{context}
)
envs.reset(seed=0)
frames = envs.render()
assert len(frames) == 2
envs.close()
env, frame = drawn()
same(frames[0], frame)
"""
CASES = {
    "a child draws what its parent has drawn": FORK.format(in_child="same(env.render(), frame)"),
    "a child draws an environment of its own": FORK.format(in_child="same(drawn()[1], frame)"),
    "a child closes what its parent has drawn": FORK.format(in_child="env.close()"),
    "a child does nothing": FORK.format(in_child="pass"),
    "a child of a child draws": FORK.format(
        in_child="env.render(); os.fork(); same(env.render(), frame)",
    ),
    "asynchronous": VECTOR.format(before="", context=""),
    "asynchronous after the parent has drawn": VECTOR.format(before="drawn()", context=""),
    "threads": """
env, frame = drawn()
frames = []
for _ in range(3):
    thread = threading.Thread(target=lambda: frames.append(env.render()))
    thread.start()
    thread.join()
for other in (*frames, env.render()):
    same(other, frame)
""",
    "a process forked by a thread that has drawn": """
def work():
    env, frame = drawn()
    child = os.fork()
    if not child:
        same(env.render(), frame)
        os._exit(3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

codes = []
drawn()
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert codes == [3]
""",
}
SPAWN = """
import multiprocessing

def work(queue):
    queue.put(drawn()[1])

if __name__ == "__main__":
    env, frame = drawn()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    same(queue.get(timeout=60), frame)
    process.join(60)
    assert process.exitcode == 0
"""


def ends(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("case", CASES)
def test_it_ends(case):
    ends(sys.executable, "-W", "ignore", "-c", START + CASES[case])


def test_spawned_processes(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(START + SPAWN)
    ends(sys.executable, str(script))


@pytest.mark.parametrize(
    ("driver", "threads", "refused"),
    [("llvmpipe (LLVM)", "0", False), ("llvmpipe (LLVM)", "4", True), ("NVIDIA H100", "0", True)],
)
def test_a_driver_that_cannot_draw_after_a_fork_is_refused(driver, threads, refused, monkeypatch):
    rendering.free_contexts()
    monkeypatch.setattr(rendering, "_inherited_driver", driver)
    monkeypatch.setenv("LP_NUM_THREADS", threads)
    env = MetaEnv("MetaHalfCheetah-Vel-v0", render_mode="rgb_array")
    env.reset(seed=0)
    if refused:
        with pytest.raises(RuntimeError, match=r"cannot draw in a process that was forked.*'spawn'"):
            env.render()
    else:
        assert env.render().std() > 1.0
