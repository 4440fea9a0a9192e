"""The commands `metarl evaluate --set`, `metarl compare` and `metarl study mql-ood`."""

import pytest
from test_run import ENV, OVERRIDES
from typer.testing import CliRunner

from metarl_agents import train
from metarl_agents.cli import app

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    train("mql", ENV, out=folder, overrides=OVERRIDES["mql"], steps=80 * 20 + 180, progress=False)
    return folder


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_an_evaluation_may_change_the_adaptation_and_two_are_compared(run_dir):
    first = invoke("evaluate", run_dir, "--protocol", "mql", "--tasks", 4)
    assert f"written: {run_dir}/report_test_mql.json and .png" in first.output
    second = invoke("evaluate", run_dir, "--protocol", "mql", "--tasks", 4, "--set", "adaptation=none")
    assert f"written: {run_dir}/report_test_mql_adaptation-none.json and .png" in second.output
    reports = (run_dir / "report_test_mql.json", run_dir / "report_test_mql_adaptation-none.json")
    assert all(path.exists() for path in reports)
    compared = invoke("compare", *reports)
    assert "first minus second, paired over 4 tasks and 1 trial seed: mean" in compared.output
    along = invoke("compare", *reports, "--episodes", "1-3")
    assert "first minus second, paired over 4 tasks and 1 trial seed: mean" in along.output
    for wrong, message in (("3", "a first and a last episode, such as 1-40"), ("1-9", "from 1 to 3")):
        assert message in str(invoke("compare", *reports, "--episodes", wrong, code=1).exception)
    invoke("evaluate", run_dir, "--protocol", "mql", "--split", "validation", "--tasks", "2")
    assert (run_dir / "report_validation_mql.json").exists()


def test_what_cannot_be_changed_or_compared_is_said(run_dir):
    refused = invoke("evaluate", run_dir, "--set", "hidden=8", code=1)
    assert "an evaluation of mql cannot change 'hidden'" in str(refused.exception)
    missing = invoke("compare", run_dir / "a.json", run_dir / "b.json", code=1)
    assert isinstance(missing.exception, OSError | ValueError)


def test_the_study_refuses_bad_seeds(tmp_path):
    refused = invoke("study", "mql-ood", "--out", tmp_path / "x", "--seeds", "one", code=1)
    assert "whole numbers separated by commas" in str(refused.exception)
    assert not (tmp_path / "x").exists()
