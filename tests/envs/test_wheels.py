"""The built packages carry all they need and work away from the repository."""

import functools
import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from representatives import BODY_IDS, KIND_IDS

import metarl_envs

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "metarl_envs": ROOT / "packages" / "metarl_envs",
    "metarl_agents": ROOT / "packages" / "metarl_agents",
}


def _run(*command, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def _wheel(source, folder):
    _run(
        "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source,
        cwd=folder,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def _contents(wheel):
    """Name -> hash of the package's files; what is about the distribution itself is left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if ".dist-info/" not in name
        }


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """The folder of all wheels of this session; each is built when it is asked for."""
    return tmp_path_factory.mktemp("wheels")


def _built(name, wheels):
    (wheels / name).mkdir(exist_ok=True)
    return _wheel(PACKAGES[name], wheels / name)


@pytest.fixture(scope="module", params=PACKAGES)
def wheel(request, wheels):
    """Name and wheel of each package, built from the repository."""
    return request.param, _built(request.param, wheels)


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheels):
    """The wheel of metarl-envs, installed alone into an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    built = _built("metarl_envs", wheels)
    _run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, built, cwd=folder)
    return folder


def test_wheels_hold_every_file_of_their_package(wheel):
    name, built = wheel
    held = _contents(built)
    source = PACKAGES[name] / "src"
    expected = {
        str(path.relative_to(source)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (source / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {k: v for k, v in held.items() if "tasks_spec" not in k} == expected
    assert f"{name}/py.typed" in held
    if name == "metarl_agents":
        assert any(k.endswith(".toml") for k in held)


def test_the_wheel_carries_the_specifications(wheel):
    name, built = wheel
    held = {k: v for k, v in _contents(built).items() if "tasks_spec" in k}
    expected = {
        f"metarl_envs/{path.relative_to(ROOT)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (ROOT / "tasks_spec").rglob("*")
        if path.is_file()
    }
    assert held == (expected if name == "metarl_envs" else {})


def test_a_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    name, built = wheel
    _run("-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=PACKAGES[name])
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "again").mkdir()
    assert _contents(_wheel(source, tmp_path / "again")) == _contents(built)


USE = """
import pathlib, sys
import gymnasium
import metarl_envs
from metarl_envs.families import directories
from metarl_envs.pages.page import page
target = pathlib.Path(sys.argv[1])
assert pathlib.Path(metarl_envs.__file__).is_relative_to(target), metarl_envs.__file__
assert directories.spec_directory() == target / "metarl_envs" / "tasks_spec", directories.spec_directory()
print(*metarl_envs.registered_ids())
for family_id in sys.argv[2:]:
    env = gymnasium.make(family_id, split="test", task=1)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    envs = gymnasium.make_vec(family_id, num_envs=3, split="test")
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    assert page(metarl_envs.family(family_id))
loaded = [m for m in sys.modules.values() if getattr(m, "__file__", None) and "metarl" in m.__name__]
assert loaded and all(pathlib.Path(m.__file__).is_relative_to(target) for m in loaded)
"""


def test_the_installed_wheel_makes_environments(installed, tmp_path):
    """Away from the repository; the editable install of this checkout is not what is imported."""
    # One id per body, whose assets are in it; the files of all families are compared above.
    command = ("-W", "error::UserWarning", "-c", USE, installed, *BODY_IDS)
    printed = _run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed.split() == list(metarl_envs.registered_ids())


def test_the_installed_command_line_verifies_its_tables(installed, tmp_path):
    code = "from metarl_envs.cli import main; main()"
    printed = _run("-c", code, "tasks", "verify", *KIND_IDS, cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed.splitlines() == [f"{i}: ok" for i in KIND_IDS]
    assert (installed / "bin" / "metarl-envs").is_file()


def test_wheel_metadata(wheel):
    name, built = wheel
    with zipfile.ZipFile(built) as archive:
        (metadata,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith("/METADATA"))
        entries = [archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt")]
    assert f"Name: {name.replace('_', '-')}" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    always = [line for line in required if "extra ==" not in line]
    if name == "metarl_envs":
        assert f"Version: {metarl_envs.__version__}" in metadata
        assert "metarl-envs = metarl_envs.cli:main" in entries[0]
        assert not any(x in line for line in required for x in ("torch", "tianshou"))
        assert any("mujoco" in line for line in always)
    else:
        assert any("metarl-envs" in line for line in always)
