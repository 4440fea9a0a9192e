"""Fixtures of the contract tests."""

import pytest

from metarl_envs.simulation.headless import prefer_headless_rendering

# Test modules import mujoco before any environment does, and it chooses its backend when imported.
prefer_headless_rendering()


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    """MuJoCo writes a log of unstable simulations into the working directory."""
    monkeypatch.chdir(tmp_path)
