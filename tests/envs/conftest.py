"""Fixtures of the tests of `metarl_envs`."""

import shutil

import pytest

from metarl_envs.families import directories, models, specs, tables
from metarl_envs.simulation.headless import prefer_headless_rendering

# Test modules import mujoco before any environment does, and it chooses its backend when imported.
prefer_headless_rendering()


@pytest.fixture
def spec_folder(tmp_path, monkeypatch):
    """A copy of the specifications that is read instead of the shipped ones."""
    folder = tmp_path / "tasks_spec"
    shutil.copytree(directories.spec_directory(), folder)
    monkeypatch.setattr(directories, "spec_directory", lambda: folder)
    monkeypatch.setattr(models, "_checked", set())
    caches = (specs.registered_ids, specs._family, tables.checksums)
    for cache in caches:
        cache.cache_clear()
    yield folder
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Commands write into the working directory, and MuJoCo a log of what plain loops make it warn of."""
    monkeypatch.chdir(tmp_path)
