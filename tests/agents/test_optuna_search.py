"""The hyperparameter search of `examples/optuna_search`, small."""

import importlib.util
from pathlib import Path

import optuna
import pytest
from test_run import interrupt_after
from torch.utils.tensorboard import SummaryWriter

from metarl_envs.evaluation import Report

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "optuna_search" / "search.py"
#: Two iterations.
STEPS = 2 * 2 * 20 * 20 * 20


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("optuna_search", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(folder):
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{folder / 'study.db'}")
    trials = optuna.load_study(
        study_name=study.study_name, storage=f"sqlite:///{folder / 'study.db'}"
    ).get_trials()
    return [(trial.state.name, trial.params, trial.values) for trial in trials]


@pytest.mark.long
def test_an_interrupted_search_continues_to_the_same_study(script, tmp_path, monkeypatch, capsys):
    def search(folder, trials):
        script.main([f"--out={tmp_path / folder}", f"--trials={trials}", f"--steps={STEPS}", "--seed=103"])

    search("whole", 2)
    assert "best: trial " in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", interrupt_after(1))
        with pytest.raises(KeyboardInterrupt):
            search("cut", 1)
    ((state, _, values),) = found(tmp_path / "cut")
    assert (state, values) == ("RUNNING", None)
    search("cut", 1)
    search("cut", 2)
    trials = found(tmp_path / "cut")
    assert trials == found(tmp_path / "whole")
    assert [state for state, _, _ in trials] == ["COMPLETE"] * 2
    assert trials[0][1] != trials[1][1]
    reports = [Report.from_json(path) for path in sorted((tmp_path / "cut").glob("*/trial-*/report_*.json"))]
    assert [(report.protocol.split, report.protocol.seeds) for report in reports] == [
        ("validation", (103,))
    ] * 2


def test_seeds_of_reported_results_are_refused(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([f"--out={tmp_path}", "--seed=2"])
    assert "--seed must be at least 100" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
