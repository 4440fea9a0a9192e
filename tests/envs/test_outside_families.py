"""Families from outside the package: registered directories, plug-ins, and classes named by their path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import metarl_envs
from metarl_envs import SpecError, cli
from metarl_envs.families.directories import spec_directory

pytestmark = pytest.mark.usefixtures("in_empty_folder", "own_registry")

NEW = "MyPoint-Far-v0"


@pytest.fixture
def directory(tmp_path):
    """A directory with one family, not frozen yet."""
    folder = tmp_path / "my_specs"
    folder.mkdir()
    shutil.copy(spec_directory() / "MetaPoint-Goal-v0.toml", folder / f"{NEW}.toml")
    return folder


@pytest.fixture
def run(capsys):
    """Runs a command line; returns exit status, output and error output."""

    def call(*words):
        status = cli.run(cli.app, [str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_registered_directory_is_like_the_shipped_one(directory):
    shipped = metarl_envs.registered_ids()
    assert metarl_envs.register_specs(directory) == (NEW,)
    assert metarl_envs.registered_ids() == tuple(sorted((*shipped, NEW)))
    assert cli.run(cli.app, ["tasks", "freeze", NEW]) == 0
    env = gymnasium.make(NEW, split="test", task=3)
    env.reset(seed=0)
    assert env.unwrapped.get_task() == metarl_envs.family(NEW).task("test", 3)
    assert gymnasium.make_vec(NEW, num_envs=2).reset(seed=0)[0].shape == (2, 2)
    assert metarl_envs.register_specs(str(directory)) == (NEW,)


def test_files_that_came_since_are_registered_by_another_call(directory):
    metarl_envs.register_specs(directory)
    shutil.copy(directory / f"{NEW}.toml", directory / "MyPoint-Near-v0.toml")
    assert metarl_envs.register_specs(directory) == (NEW, "MyPoint-Near-v0")
    assert {NEW, "MyPoint-Near-v0"} < set(gymnasium.registry)


def test_every_command_takes_further_directories(run, directory, tmp_path):
    more = ("--specs", directory)
    frozen = f"{NEW}: frozen simulation, tasks, splits.train, splits.validation, splits.test, subsets.iwpa\n"
    assert run("tasks", "freeze", NEW, *more) == (0, frozen, "")
    assert sorted(p.name for p in directory.rglob("*.*")) == [f"{NEW}.json", f"{NEW}.toml", "checksums.json"]
    assert run("tasks", "verify", NEW, *more) == (0, f"{NEW}: ok\n", "")
    assert NEW in run("list", *more)[1]
    assert run("describe", NEW, *more)[1].startswith(f"# {NEW}\n")
    assert run("tasks", "export", NEW, *more)[0] == 0
    assert run("tasks", "plot", NEW, *more)[0] == 0
    assert run("render", NEW, *more, "--steps", 1)[0] == 0
    assert run("tasks", "unfreeze", NEW, *more) == (0, f"{NEW}: not frozen\n", "")


def test_the_shipped_directory_may_be_named(run):
    assert run("tasks", "verify", "MetaPoint-Goal-v0", "--specs", spec_directory())[0] == 0


BROKEN = {
    "missing": (lambda d: shutil.rmtree(d), "is not a directory"),
    "empty": (lambda d: (d / f"{NEW}.toml").unlink(), "has no specification"),
    "no TOML": (lambda d: (d / f"{NEW}.toml").write_text("title ="), f"{NEW}.toml"),
    "no horizon": (lambda d: _replace(d / f"{NEW}.toml", "horizon = 20", ""), "horizon is missing"),
    "an unknown key": (lambda d: _replace(d / f"{NEW}.toml", "horizon =", "horizno ="), "horizno"),
    "no such rule": (lambda d: _replace(d / f"{NEW}.toml", 'rule = "', 'rule = "no'), "table.rule"),
    "no version": (lambda d: (d / f"{NEW}.toml").rename(d / "MyPoint.toml"), "MyPoint.toml"),
    "a clash": (
        lambda d: shutil.copy(d / f"{NEW}.toml", d / "MetaPoint-Goal-v0.toml"),
        "'MetaPoint-Goal-v0' is taken by 'metarl_envs'",
    ),
    "a clash with Gymnasium": (
        lambda d: shutil.copy(d / f"{NEW}.toml", d / "CartPole-v1.toml"),
        "'CartPole-v1' is taken in Gymnasium's registry",
    ),
    "checksums": (lambda d: (d / "checksums.json").write_text("[]"), "checksums.json"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_directory_is_refused_as_a_whole(run, directory, how):
    breaking, said = BROKEN[how]
    breaking(directory)
    shipped, registered = metarl_envs.registered_ids(), set(gymnasium.registry)
    with pytest.raises(SpecError) as caught:
        metarl_envs.register_specs(directory)
    assert str(caught.value).startswith(f"{directory}: ")
    assert said in str(caught.value)
    assert metarl_envs.registered_ids() == shipped
    assert set(gymnasium.registry) == registered
    status, out, err = run("list", "--specs", directory)
    assert (status, out) == (2, "")
    assert said in err


def test_two_directories_with_the_same_id(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "others")
    metarl_envs.register_specs(directory)
    with pytest.raises(SpecError, match=f"{NEW}' is taken by '{directory}'"):
        metarl_envs.register_specs(tmp_path / "others")


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("body", "no_such_package.robots:Snake", "cannot be imported: No module named 'no_such_package'"),
        ("body", "metarl_envs.bodies.point:Snake", "cannot be imported: module 'metarl_envs.bodies.point'"),
        ("body", "metarl_envs.bodies.base:Row", "is not a subclass of Body"),
        ("objective", "json:dumps", "is not a subclass of Objective"),
        ("objective", "no_such_package:Win", "cannot be imported"),
        ("body", "snake", "or 'package.module:Class'"),
        ("objective", "a.b:", "or 'package.module:Class'"),
    ],
)
def test_a_class_that_is_not_there_is_named(run, directory, key, name, said):
    old = {"body": "point", "objective": "goal"}[key]
    _replace(directory / f"{NEW}.toml", f'{key} = "{old}"', f'{key} = "{name}"')
    status, out, err = run("tasks", "freeze", NEW, "--specs", directory)
    assert (status, out) == (2, "")
    assert f"{NEW}.toml: {key} " in err
    assert said in err
    assert len(list(directory.iterdir())) == 1


OBJECTIVE = """
import numpy as np
from metarl_envs.simulation.objectives import Objective, Outcome

class Far(Objective):
    progress_name = "far"
    progress_formula = "distance from the task's point"
    success_text = "at 1 m or more"
    task_forms = {("goal_x", "goal_y"): 2}

    def judge(self, motion, tasks):
        distance = np.hypot(*(motion.position[:, :2] - tasks).T)
        return Outcome(distance, distance >= 1.0)

    def marker(self, position, task, seconds):
        return task.copy()
"""


def test_an_objective_from_outside(directory, tmp_path, monkeypatch):
    (tmp_path / "my_objectives.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    text = (directory / f"{NEW}.toml").read_text()
    start, end = text.index("[objective_options]"), text.index("[parameters]")
    text = text[:start] + "[objective_options]\nstep_cost = 0.5\n\n" + text[end:]
    (directory / f"{NEW}.toml").write_text(text.replace('"goal"', '"my_objectives:Far"'))
    assert cli.run(cli.app, ["tasks", "freeze", NEW, "--specs", str(directory)]) == 0
    env = gymnasium.make(NEW)
    start, _ = env.reset(seed=0)
    _, reward, _, _, info = env.step(np.zeros(2))
    distance = np.hypot(*(start - env.unwrapped.get_task().vector))
    assert info["reward_far"] == pytest.approx(distance, abs=1e-6)
    assert reward == info["reward_far"] - 0.5


PROGRAM = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import metarl_envs
if __name__ == "__main__":
    print([str(w.message) for w in caught])
    print(metarl_envs.registered_ids())
"""


def _install(site, name, value, directory=None):
    """Puts a plug-in into a folder, as an installer would: its package and its metadata."""
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text("import metarl_envs\n")
    if directory is not None:
        shutil.copytree(directory, site / name / "families")
    facts = site / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[metarl_envs.specs]\n{name} = {value}\n")


def _python(site, program):
    # The package under test, wherever the interpreter would find another one.
    source = Path(metarl_envs.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{source}"}
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.process
def test_an_installed_plug_in_is_there_after_the_import(directory, tmp_path):
    """Its own package may import this one."""
    _install(tmp_path / "site", "my_tasks", "my_tasks.families", directory)
    (tmp_path / "program.py").write_text(PROGRAM)
    caught, ids = _python(tmp_path / "site", tmp_path / "program.py")
    assert caught == "[]"
    assert repr(NEW) in ids


@pytest.mark.process
def test_broken_plug_ins_are_left_out_with_a_warning_that_names_them(directory, tmp_path):
    site = tmp_path / "site"
    _install(site, "good", "good.families", directory)
    _install(site, "gone", "gone.families")
    _install(site, "failing", "failing.families", directory)
    (site / "failing" / "__init__.py").write_text("raise RuntimeError('no licence')\n")
    _install(site, "twice", "twice.families", spec_directory())
    (tmp_path / "program.py").write_text(PROGRAM)
    caught, ids = _python(site, tmp_path / "program.py")
    assert repr(NEW) in ids
    assert ids.count("'MetaPoint-Goal-v0'") == 1
    for words in (
        "plug-in 'gone' (gone.families) are left out: the entry point",
        "plug-in 'failing' (failing.families) are left out: no licence",
        "plug-in 'twice' (twice.families) are left out: ",
        "is taken by 'metarl_envs'",
    ):
        assert words in caught, caught


SPAWNING = """
import functools, sys
import gymnasium, metarl_envs
from gymnasium.vector import AsyncVectorEnv

if __name__ == "__main__":
    makers = [functools.partial(gymnasium.make, "MyPoint-Far-v0", task=i) for i in range(2)]
    envs = AsyncVectorEnv(makers, context="spawn")
    print(envs.reset(seed=0)[0].shape)
    envs.close()
"""


@pytest.mark.process
def test_spawned_workers_find_the_families_of_a_plug_in(directory, tmp_path):
    assert cli.run(cli.app, ["tasks", "freeze", NEW, "--specs", str(directory)]) == 0
    _install(tmp_path / "site", "my_tasks", "my_tasks.families", directory)
    (tmp_path / "program.py").write_text(SPAWNING)
    assert _python(tmp_path / "site", tmp_path / "program.py") == ["(2, 2)"]
