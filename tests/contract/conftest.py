"""Fixtures of the contract tests."""

import mujoco
import pytest
from contract_helpers import FRAME

from metarl_envs import env, vector_env
from metarl_envs.simulation.headless import prefer_headless_rendering

# Test modules import mujoco before any environment does, and it chooses its backend when imported.
prefer_headless_rendering()


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    """Whatever happens to an environment, it writes nothing into the working directory."""
    folder = tmp_path / "working directory"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert not list(folder.iterdir())


@pytest.fixture(autouse=True)
def small_frames(request, monkeypatch):
    """Frames of a sixteenth of the size, without shadows, unless a test is marked `full_frames`.

    A software renderer's time goes with the pixels, and most of it is the map of shadows. The size that
    users get is tested by the tests with the mark.
    """
    if request.node.get_closest_marker("full_frames"):
        return
    real = mujoco.Renderer

    def plain(model, height, width):
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        return real(model, height, width)

    monkeypatch.setattr(mujoco, "Renderer", plain)
    for module in (env, vector_env):
        monkeypatch.setattr(module, "FRAME_SIZE", (FRAME, FRAME))
