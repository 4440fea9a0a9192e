"""The adaptation study of IWPA through the command line: files, continuing, few training tasks."""

import json

import numpy as np
import pytest
from test_adapt_runs import QUICK
from test_run import TINY, TINY_MULTI_TASK
from typer.testing import CliRunner

from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.run.iwpa_study import IWPAStudy, prior_coverage

pytestmark = pytest.mark.long
ENV = "MetaPoint-SparseGoal-v0"
RANDOM = "iwpa:initial_weights=random"


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
                 "--variants", "iwpa,iwpa:initial_weights=random,prior")  # fmt: skip
    said = study("iwpa", tmp_path / "study", *arguments)
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert (record["family"], record["pretraining"], record["tasks"]) == (ENV, "distral", 3)
    assert list(record["variants"]) == ["iwpa", RANDOM, "prior"]
    first, other = record["variants"]["iwpa"], record["variants"]["prior"]
    # Every pair is compared over the whole trial, which is shorter here than the part at its beginning.
    pairs = {(d["first"], d["second"]): d for d in record["differences"]}
    assert list(pairs) == [("iwpa", RANDOM), ("iwpa", "prior"), (RANDOM, "prior")]
    difference = pairs["iwpa", "prior"]
    assert difference["episodes"] == [1, 4]
    expected = first["area"][0] - other["area"][0]
    assert difference["first_minus_second"][0] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert len(list((tmp_path / "study" / "seed-3").glob("adaptation_*initial_weights-random*.json"))) == 1
    assert np.shape(first["areas"]) == (2, 3)
    assert np.mean(first["areas"]) == pytest.approx(first["area"][0], rel=1e-3, abs=1e-9)
    assert [len(first["curve"][key]) for key in ("estimate", "low", "high")] == [4, 4, 4]
    table = (tmp_path / "study" / "study.txt").read_text()
    assert table in said
    assert (tmp_path / "study" / "study.png").stat().st_size > 1000
    assert set(record["seeds"]) == {"3", "4"}
    coverage = prior_coverage(tmp_path / "study" / "seed-3", ENV)
    assert record["seeds"]["3"]["prior_coverage_of_validation_tasks"] == coverage
    assert record["seeds"]["3"]["pretraining_core_seconds"] > 0
    # The same command again computes nothing anew and writes the same.
    (tmp_path / "study" / "study.json").unlink()
    study("iwpa", tmp_path / "study", *arguments)
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == record


def test_rivals_are_trained_and_make_the_same_trials(tmp_path):
    rival = [*TINY, "training_reward=dense_reward", "total_env_steps=1700"]
    study("iwpa", tmp_path, "--seeds", "3", "--steps", "400", "--episodes", "5", "--tasks", "3",
          "--split", "validation", "--variants", "prior", "--rivals", "pearl",
          *options("--rival-set", rival))  # fmt: skip
    record = json.loads((tmp_path / "study.json").read_text())
    assert list(record["variants"]) == ["prior", "pearl"]
    assert record["seeds"]["3"]["pearl_core_seconds"] > 0
    config = json.loads((tmp_path / "pearl-seed-3" / "config.json").read_text())
    assert (config["agent"], config["seed"]) == ("pearl", 3)
    found = json.loads(next((tmp_path / "pearl-seed-3").glob("report_validation_*.json")).read_text())
    assert found["protocol"]["adaptation_episodes"] == 2
    assert found["protocol"]["seeds"] == [0]


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
    with pytest.raises(ConfigError, match="unknown configuration key 'weights'"):
        IWPAStudy(tmp_path / "x", ENV, variants=("iwpa:weights=random",)).run()
    with pytest.raises(ConfigError, match="iwpl cannot act on new tasks without being adapted"):
        IWPAStudy(tmp_path / "x", ENV, rivals=("iwpl",)).run()
    assert not (tmp_path / "x").exists()
