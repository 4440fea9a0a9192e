"""What importing the package does and costs."""

import json
import subprocess
import sys

import pytest

import metarl_envs

pytestmark = pytest.mark.process

IDS = metarl_envs.registered_ids()
HEAVY = ("mujoco", "dm_control", "torch", "matplotlib", "tianshou", "scipy", "pandas", "typer", "OpenGL")


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_import_registers_every_id_and_no_simulator():
    found = _run(
        "import json, sys, gymnasium, metarl_envs\n"
        "ids = sorted(i for i in gymnasium.registry if i.startswith('Meta'))\n"
        "print(json.dumps([ids, list(sys.modules)]))"
    )
    assert found[0] == list(IDS)
    assert not [name for name in HEAVY if name in found[1]]


def test_looking_at_families_needs_no_simulator():
    loaded = _run(
        "import json, sys, numpy, metarl_envs\n"
        "for i in metarl_envs.registered_ids():\n"
        "    f = metarl_envs.family(i)\n"
        "    f.tasks('test'), f.sample_tasks(3, numpy.random.default_rng(0)), f.task_space\n"
        "print(json.dumps(list(sys.modules)))"
    )
    assert not [name for name in HEAVY if name in loaded]


@pytest.mark.parametrize("family_id", [i for i in IDS if metarl_envs.family(i).body == "point"])
def test_points_need_no_simulator_at_all(family_id):
    loaded = _run(
        "import json, sys, gymnasium, metarl_envs\n"
        f"env = gymnasium.make('{family_id}', render_mode='rgb_array')\n"
        f"envs = gymnasium.make_vec('{family_id}', num_envs=3)\n"
        "env.reset(seed=0), envs.reset(seed=0)\n"
        "env.step(env.action_space.sample()), envs.step(envs.action_space.sample()), env.render()\n"
        "print(json.dumps(list(sys.modules)))"
    )
    assert not [name for name in ("mujoco", "dm_control", "torch", "matplotlib") if name in loaded]


@pytest.mark.parametrize("composed", [False, True])
def test_environments_need_no_learning_library(composed):
    loaded = _run(
        "import json, sys, gymnasium, metarl_envs\n"
        "for i in metarl_envs.registered_ids():\n"
        f"    if (metarl_envs.family(i).objective == 'on_target') is {composed}:\n"
        "        envs = gymnasium.make_vec(i, num_envs=2)\n"
        "        envs.reset(seed=0), envs.step(envs.action_space.sample())\n"
        "print(json.dumps(list(sys.modules)))"
    )
    assert "mujoco" in loaded
    # dm_control composes four bodies, and brings scipy.
    own = ("torch", "tianshou", "matplotlib") if composed else ("torch", "tianshou", "matplotlib", "scipy")
    assert not [name for name in own if name in loaded]
    assert ("dm_control" in loaded) is composed


def test_import_costs_little_beyond_gymnasium():
    """At most 0.15 s on top of Gymnasium's own import, at best of several tries."""
    code = (
        "import json, time, gymnasium\n"
        "start = time.perf_counter()\n"
        "import metarl_envs\n"
        "print(json.dumps(time.perf_counter() - start))"
    )
    assert any(_run(code) <= 0.15 for _ in range(7))
