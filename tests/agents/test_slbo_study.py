"""Studies of multi-task SLBO: what they train, evaluate, write and continue."""

import json

import numpy as np
import pytest
from test_run import OVERRIDES
from typer.testing import CliRunner

from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.run.directory import RunError
from metarl_agents.run.slbo_study import CONTROLS, SLBOStudy
from metarl_envs.evaluation import Report

pytestmark = pytest.mark.long
CHEETAH = "MetaHalfCheetah-VelShort-v0"
TINY = [t for t in OVERRIDES["slbo"] if not t.startswith(("selection", "inner_iterations", "checkpoint"))]
TINY = [*TINY, "inner_iterations=2"]


def study(folder, **changes):
    arguments = {"numbers": (1, 2), "seeds": (0, 1), "num_tasks": 2, "overrides": TINY} | changes
    return SLBOStudy(folder, CHEETAH, **arguments)


def quiet(text):
    del text


def test_it_evaluates_runs_as_they_grow_and_continues(tmp_path, monkeypatch):
    whole = study(tmp_path / "whole", controls=CONTROLS).run(progress=False, say=quiet)
    record = json.loads(whole.read_text())
    assert list(record["results"]) == ["1 tasks", "2 tasks", *(f"2 tasks, {c}" for c in CONTROLS)]
    assert [np.shape(numbers["scores"]) for numbers in record["results"].values()] == [(2, 2)] * 4
    assert len(record["differences"]) == 6
    for seed in ("0", "1"):
        costs = record["seeds"][seed]["none"]
        assert (costs["env_steps"], costs["trained_tasks"], costs["measured_steps"]) == (400, 2, 200)
        assert np.isfinite(costs["virtual_minus_real_of_the_last_tasks"])
    scores = [
        Report.from_json(tmp_path / f"whole/reports/none-seed-{seed}-tasks-2.json").scores for seed in (0, 1)
    ]
    assert np.allclose(np.concatenate(scores), record["results"]["2 tasks"]["scores"], rtol=1e-3)
    for name in ("study.png", "study.txt"):
        assert (whole.parent / name).stat().st_size > 0

    # Interrupted in its third evaluation, of six.
    calls, original = [], SLBOStudy._evaluate

    def evaluate(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(SLBOStudy, "_evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "cut", controls=CONTROLS).run(progress=False, say=quiet)
    again = study(tmp_path / "cut", controls=CONTROLS).run(progress=False, say=quiet)
    assert len(calls) == 3 + 6
    found = json.loads(again.read_text())
    assert found["results"] == record["results"]
    assert found["differences"] == record["differences"]

    # What is finished needs its reports only.
    for run in (tmp_path / "cut").glob("none-seed-*"):
        run.rename(tmp_path / run.name)
    found = json.loads(study(tmp_path / "cut", controls=CONTROLS).run(progress=False, say=quiet).read_text())
    assert (found["results"], found["seeds"].keys()) == (record["results"], record["seeds"].keys())
    for run in tmp_path.glob("none-seed-*"):
        run.rename(tmp_path / "cut" / run.name)

    # A number of tasks that the runs have passed cannot be evaluated any more.
    (tmp_path / "cut/reports/none-seed-0-tasks-1.json").unlink()
    with pytest.raises(RunError, match="has more than 1 tasks"):
        study(tmp_path / "cut").run(progress=False, say=quiet)


def test_steps_that_rate_tasks_do_not_replace_tasks(tmp_path):
    path = study(tmp_path / "s", selections=("none", "real"), numbers=(3,), seeds=(0,)).run(
        progress=False, say=quiet
    )
    costs = json.loads(path.read_text())["seeds"]["0"]
    assert costs["none"]["env_steps"] == 600
    assert costs["real"]["trained_tasks"] == 3
    assert costs["real"]["env_steps"] == 600 + costs["real"]["rating_steps"] == 1000


def test_bad_settings_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="numbers of tasks must increase"):
        study(tmp_path / "a", numbers=(2, 1)).run(say=quiet)
    with pytest.raises(ConfigError, match="selection must be one of"):
        study(tmp_path / "a", selections=("none", "best")).run(say=quiet)
    with pytest.raises(ConfigError, match="unknown protocol"):
        study(tmp_path / "a", protocol="slob").run(say=quiet)
    with pytest.raises(ConfigError, match="dynamics must be one of"):
        study(tmp_path / "a", controls=("dynamics=no",)).run(say=quiet)
    with pytest.raises(ValueError, match="split"):
        study(tmp_path / "a", split="odd").run(say=quiet)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("slbo-tasks", ["--numbers", "1,2", "--no-controls"]),
        ("slbo-transfer", ["--training-tasks", "2", "--protocol", "slbo_warm_up"]),
        ("slbo-active", [CHEETAH, "--selections", "none,estimated", "--numbers", "2"]),
    ],
)
def test_commands(command, arguments, tmp_path):
    options = [part for text in TINY for part in ("--set", text)]
    result = CliRunner().invoke(
        app,
        ["study", command, *arguments, *options, "--seeds", "0", "--tasks", "1", "--out", str(tmp_path)],
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["split"] == ("ood" if command == "slbo-transfer" else "test")
    assert (tmp_path / "study.png").exists()
