"""Hostile tests use the tiny runs of the agents' tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agents"))

import pytest
from test_run import interrupt_after, tiny
from torch.utils.tensorboard import SummaryWriter

from metarl_agents.run.checkpoint import checkpoints


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("hostile") / "whole"
    assert tiny(folder).finished
    return folder


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    """A run with two checkpoints, after iterations 3 and 4 of 6."""
    folder = tmp_path_factory.mktemp("hostile") / "cut"
    patch = pytest.MonkeyPatch()
    patch.setattr(SummaryWriter, "add_scalar", interrupt_after(4))
    assert not tiny(folder).finished
    patch.undo()
    assert [p.name for p in checkpoints(folder / "checkpoints")] == ["00000003", "00000004"]
    return folder
