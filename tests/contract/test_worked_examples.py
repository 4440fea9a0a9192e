"""The families of `examples/my_robots`, made by CONTRIBUTING's commands and held to the whole contract.

Every test of this folder that takes nothing but an id runs on them, as it runs on the shipped ids. The long
ones run on the new body; on the hopper, a shipped body, they are `slow`.
"""

import importlib
import inspect
import shutil
import sys
import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from contract_helpers import make_native, random_actions

import metarl_envs
from metarl_envs import cli
from metarl_envs.evaluation import Protocol, RandomAgent, evaluate
from metarl_envs.families import directories, specs, tables

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "my_robots" / "src"
EXAMPLE_IDS = ("MetaHopper-Vel-v0", "MetaSwimmer-Dir-v0")


def _module_marks(name):
    marks = getattr(sys.modules[name], "pytestmark", [])
    return marks if isinstance(marks, list) else [marks]


def _contract():
    """Yields the tests of an id and of an id's arguments."""
    for path in sorted(Path(__file__).parent.glob("test_contract_*.py")):
        for name, test in vars(importlib.import_module(path.stem)).items():
            if not name.startswith("test_") or getattr(test, "__module__", "") != path.stem:
                continue
            needed = set(inspect.signature(test).parameters)
            marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name != "parametrize"]
            if "family_id" in needed and needed <= {"family_id", "arguments"}:
                is_long = any(m.name == "long" for m in (*marks, *_module_marks(path.stem)))
                for family_id in EXAMPLE_IDS:
                    more = [pytest.mark.slow] if is_long and family_id == EXAMPLE_IDS[0] else []
                    name_ = f"{path.stem}-{name}-{family_id}"
                    yield pytest.param(test, family_id, id=name_, marks=[*marks, *more])


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory):
    """A copy of the package beside the repository, its families registered and frozen."""
    source = tmp_path_factory.mktemp("outside")
    shutil.copytree(EXAMPLES, source, dirs_exist_ok=True)
    folder, caches = (
        source / "my_robots" / "families",
        (specs.registered_ids, specs._family, tables.checksums),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(source)
        patch.setattr(directories, "_added", [])
        for family_id in EXAMPLE_IDS:
            assert cli.run(cli.app, ["tasks", "freeze", family_id, "--specs", str(folder)]) == 0
            assert cli.run(cli.app, ["tasks", "verify", family_id, "--specs", str(folder)]) == 0
        yield folder
    for family_id in EXAMPLE_IDS:
        del gymnasium.registry[family_id]
    for cache in caches:
        cache.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "my_robots"]:
        del sys.modules[name]


@pytest.mark.long
@pytest.mark.parametrize(("test", "family_id"), list(_contract()))
def test_the_contract_holds(test, family_id):
    arguments = {"arguments": {}} if "arguments" in inspect.signature(test).parameters else {}
    test(family_id=family_id, **arguments)


def test_the_hopper_runs_at_its_default_physics():
    """The body whose tasks may be its physics: without its parameters nothing of the model is varied."""
    envs, plain = make_native("MetaHopper-Vel-v0", 3), gymnasium.make("Hopper-v5", frame_skip=4)
    engine = envs.unwrapped._core.body.engine
    assert not engine._varied
    np.testing.assert_array_equal(engine.model.body_mass, plain.unwrapped.model.body_mass)
    envs.reset(seed=0)
    _, reward, _, _, info = envs.step(random_actions(envs, 1)[0])
    wanted = np.array([task.parameters[0] for task in envs.unwrapped.tasks])
    np.testing.assert_array_equal(info["reward_velocity"], -np.abs(info["x_velocity"] - wanted))
    np.testing.assert_allclose(reward, info["reward_velocity"] + info["reward_control"] + 1.0, rtol=1e-15)


def test_the_swimmer_is_gymnasiums():
    """The same state and actions give the same observations and, forward, the same reward."""
    env, plain = metarl_envs.MetaEnv("MetaSwimmer-Dir-v0", task=0), gymnasium.make("Swimmer-v5").unwrapped
    env.reset(seed=0)
    plain.reset(seed=0)
    engine = env._core.body.engine
    plain.set_state(engine.qpos[0], engine.qvel[0])
    for action in random_actions(env, 30, scale=1.0):
        observation, reward, *_ = env.step(action)
        expected, gymnasiums, *_ = plain.step(action)
        np.testing.assert_array_equal(observation, expected.astype(np.float32))
        assert reward == pytest.approx(gymnasiums, abs=1e-9)  # it squares actions in float32


@pytest.mark.parametrize("family_id", EXAMPLE_IDS)
def test_evaluation_takes_them(family_id):
    protocol = Protocol(adaptation_episodes=0, scored_episodes=1, num_tasks=2)
    report = evaluate(RandomAgent(), family_id, protocol, env_arguments={"max_episode_steps": 5})
    assert report.family == family_id
    assert report.returns.shape == (1, 2, 1)


def test_the_entry_point_names_the_folder():
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    (package,) = project["entry-points"]["metarl_envs.specs"].values()
    files = (EXAMPLES / package.replace(".", "/")).glob("*.toml")
    assert tuple(sorted(path.stem for path in files)) == EXAMPLE_IDS


@pytest.mark.parametrize("family_id", EXAMPLE_IDS)
def test_they_have_pages(family_id, capsys, examples):
    assert cli.run(cli.app, ["describe", family_id, "--specs", str(examples)]) == 0
    assert capsys.readouterr().out.startswith(f"# {family_id}\n")
