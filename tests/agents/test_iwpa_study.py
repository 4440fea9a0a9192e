"""The adaptation study of IWPA through the command line: files, continuing, few training tasks."""

import json

import pytest
from test_adapt_runs import QUICK
from test_run import TINY_MULTI_TASK
from typer.testing import CliRunner

from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.run.iwpa_study import IWPAStudy, prior_coverage

pytestmark = pytest.mark.long
ENV = "MetaPoint-SparseGoal-v0"


def options(name, texts):
    return [part for text in texts for part in (name, text)]


def study(command, out, *arguments):
    result = CliRunner().invoke(
        app,
        ["study", command, ENV, "--out", str(out), "--no-progress", *arguments,
         *options("--set", [*TINY_MULTI_TASK, "shared_q=true"]), *options("--adapt-set", QUICK)],
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_study_compares_variants_over_seeds_of_the_pre_training(tmp_path):
    arguments = ("--seeds", "3,4", "--steps", "1780", "--episodes", "4", "--tasks", "3",
                 "--variants", "iwpa,scratch,prior")  # fmt: skip
    said = study("iwpa", tmp_path / "study", *arguments)
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert (record["family"], record["pretraining"], record["tasks"]) == (ENV, "distral", 3)
    assert list(record["variants"]) == ["iwpa", "scratch", "prior"]
    first, other = record["variants"]["iwpa"], record["variants"]["prior"]
    assert "area_minus_first" not in first
    assert other["area_minus_first"][0] == pytest.approx(other["area"][0] - first["area"][0])
    table = (tmp_path / "study" / "study.txt").read_text()
    assert table in said
    assert (tmp_path / "study" / "study.png").stat().st_size > 1000
    assert set(record["prior_coverage_of_validation_tasks"]) == {"3", "4"}
    coverage = prior_coverage(tmp_path / "study" / "seed-3", ENV)
    assert record["prior_coverage_of_validation_tasks"]["3"] == coverage
    # The same command again computes nothing anew and writes the same.
    (tmp_path / "study" / "study.json").unlink()
    study("iwpa", tmp_path / "study", *arguments)
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == record


def test_few_training_tasks_are_the_first_ones(tmp_path):
    study(
        "iwpa-few-tasks", tmp_path, "--seeds", "3", "--steps", "400", "--train-tasks", "4", "--episodes", "4"
    )
    config = json.loads((tmp_path / "seed-3" / "config.json").read_text())["config"]
    assert config["train_tasks"] == [0, 1, 2, 3]
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["train_tasks"] == 4
    assert list(record["variants"]) == ["iwpa", "iwpa_finetune", "prior"]


def test_bad_settings_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="train_tasks must be from 1 to 80, not 81"):
        IWPAStudy(tmp_path / "x", ENV, train_tasks=81).run()
    with pytest.raises(ConfigError, match="variant must be one of"):
        IWPAStudy(tmp_path / "x", ENV, variants=("iwpa", "best")).run()
    assert not (tmp_path / "x").exists()
