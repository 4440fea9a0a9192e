"""An agent from another package, as CONTRIBUTING describes it: `examples/reptile`."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
from test_run import assert_same_outcome, interrupt_after
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

from metarl_agents import registry, resume, train
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_envs.evaluation import Report

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "reptile"
ENV = "MetaPoint-Goal-v0"
TINY = ["tasks_per_iteration=3", "episodes_per_task=3", "hidden=8"]
#: Of an iteration: four batches of three tasks with three episodes of 20 steps.
STEPS = 4 * 3 * 3 * 20


def installed(folder, project, points):
    """Puts into a folder what an installer writes of a project: its entry points."""
    info = folder / f"{project.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.1.0\n")
    lines = [f"[{registry.GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that Python searches for packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    invalidate_caches()
    registry.all_agents.cache_clear()
    yield folder
    registry.all_agents.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("reptile_agent", "broken_agent")]:
        del sys.modules[name]


@pytest.fixture
def reptile(site):
    """The example, installed."""
    shutil.copytree(EXAMPLE / "reptile_agent", site / "reptile_agent")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    installed(site, project["name"], project["entry-points"]["metarl.agents"])
    return site


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.long
def test_the_agent_has_every_command(reptile, tmp_path):
    # The width of the first column depends on the longest name.
    listed = [line.split() for line in invoke("agents").splitlines()]
    assert ["reptile", "Initial", "parameters", "moved", "towards"] in [words[:5] for words in listed]
    text = invoke("config", "reptile", ENV)
    assert "# epsilon, share of the way to the adapted parameters.\nouter_step_size = 0.5" in text
    out = tmp_path / "run"
    settings = [part for value in TINY for part in ("--set", value)]
    said = invoke("train", "reptile", ENV, "--steps", 3 * STEPS, "--out", out, "--no-progress", *settings)
    assert "3 gradient steps after 3 iterations" in said
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(record["update/outer_step"] > 0 for record in records)
    invoke("evaluate", out, "--protocol", "promp", "--tasks", 3)
    report = Report.from_json(out / "report_test_promp.json")
    assert report.agent == "reptile"
    assert np.isfinite(report.returns).all()
    invoke("plot", out, "--metric", "update/outer_step", "--out", tmp_path / "plots")
    assert (tmp_path / "plots" / "learning.png").exists()


@pytest.mark.long
def test_the_agent_resumes_bit_for_bit(reptile, tmp_path, monkeypatch):
    arguments = {"steps": 4 * STEPS, "overrides": TINY, "progress": False, "seed": 3}
    train("reptile", ENV, out=tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", interrupt_after(2))
        assert not train("reptile", ENV, out=tmp_path / "cut", **arguments).finished
    assert resume(tmp_path / "cut", progress=False).finished
    assert_same_outcome(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.process
def test_another_process_finds_the_agent(reptile):
    code = "from metarl_agents.registry import find_agent; print(find_agent('reptile').class_name)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(reptile), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "Reptile\n"


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("raise RuntimeError('out of order')", "broken_agent:ENTRY", "out of order"),
        ("ENTRY = 3", "broken_agent:ENTRY", "broken_agent:ENTRY is not a metarl_agents.AgentEntry"),
        ("", "broken_agent:ENTRY", "no attribute 'ENTRY'"),
        (
            "from metarl_agents import AgentEntry\nENTRY = AgentEntry('pearl', 'a:B', 'title', 'reference')",
            "broken_agent:ENTRY",
            "there is another agent named 'pearl'",
        ),
        ("", "no_such_package:ENTRY", "No module named 'no_such_package'"),
    ],
)
def test_a_broken_package_takes_no_other_agent_away(reptile, source, value, reason):
    (reptile / "broken_agent.py").write_text(source)
    installed(reptile, "broken", {"broken": value})
    with pytest.warns(registry.AgentWarning) as caught:
        agents = registry.all_agents()
    (warning,) = caught
    assert str(warning.message).startswith(
        f"the agent of the entry point 'broken' ({value}) cannot be used: "
    )
    assert reason in str(warning.message)
    assert set(agents) == {*registry.AGENTS, "reptile"}
    assert agents["pearl"] is registry.AGENTS["pearl"]


def test_an_unknown_agent_is_refused_with_all_names(reptile):
    with pytest.raises(ConfigError, match=r"did you mean 'reptile'\? Known: adapt_sv.*, reptile, "):
        registry.find_agent("reptil")


def test_missing_presets_are_said(reptile):
    (reptile / "reptile_agent" / "presets.toml").unlink()
    with pytest.raises(ConfigError, match=r"the presets of reptile, reptile_agent:presets.toml, cannot"):
        registry.find_agent("reptile").config(ENV, "fast")
