"""Evaluations while training, evaluations with overrides, and the test curve."""

import json
import shutil

import numpy as np
import pytest
from test_run import ENV, TINY_MQL, interrupt_after
from torch.utils.tensorboard import SummaryWriter

from metarl_agents import evaluate_run, load_agent, resume, train
from metarl_agents.common.config import ConfigError
from metarl_agents.run.curves import plot_learning
from metarl_agents.run.directory import RunError
from metarl_agents.run.metrics import EVALUATION_GLOSSARY, GLOSSARY
from metarl_envs.evaluation import Report, compare, summarise

pytestmark = pytest.mark.long
# The validation tasks are half as many as the test tasks, and short adaptations take half the time.
SHORT = [*(text for text in TINY_MQL if "_updates=" not in text), "new_updates=1", "replay_updates=1"]
WATCHED = [*SHORT, "evaluate_every=2", "evaluation_protocols=mql,pearl", "evaluation_split=validation"]
STEPS = 80 * 20 + 5 * 180


def watched(out, **arguments):
    arguments = {"seed": 3, "steps": STEPS, "progress": False} | arguments
    return train("mql", ENV, out=out, overrides=WATCHED, **arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "run"
    assert watched(folder).finished
    return folder


def records(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_a_run_is_evaluated_as_it_goes(finished):
    written = records(finished)
    assert [(r["iteration"], r["protocol"]) for r in written] == [
        (i, name) for i in (2, 4, 5) for name in ("mql", "pearl")
    ]
    # Diagnostics of another agent.
    others = {name for name, meaning in EVALUATION_GLOSSARY.items() if meaning.startswith("SLBO")}
    assert all(set(r) == set(EVALUATION_GLOSSARY) - others for r in written)
    assert [r["evaluate/new_steps"] for r in written[:2]] == [20.0, 40.0]
    last = written[-2]
    assert last["evaluate/return_low"] <= last["evaluate/return"] <= last["evaluate/return_high"]
    # The last one is what evaluating the finished run gives.
    report = evaluate_run(finished, split="validation", protocol="mql", seeds=[0], references=False)
    assert summarise(report).score.value == pytest.approx(last["evaluate/return"])


def test_a_run_is_evaluated_on_the_test_tasks_by_default(tmp_path):
    changes = ["evaluate_every=1", "evaluation_protocols=mql"]
    train("mql", ENV, out=tmp_path / "run", overrides=[*SHORT, *changes], steps=80 * 20 + 180, progress=False)
    (record,) = records(tmp_path / "run")
    report = evaluate_run(tmp_path / "run", protocol="mql", seeds=[0], references=False)
    assert report.protocol.split == "test"
    assert summarise(report).score.value == pytest.approx(record["evaluate/return"])


def test_evaluations_neither_disturb_a_run_nor_depend_on_interruptions(finished, tmp_path, monkeypatch):
    silent = train("mql", ENV, out=tmp_path / "silent", overrides=SHORT, seed=3, steps=STEPS, progress=False)
    assert (silent.run_dir / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", interrupt_after(3))
        assert not watched(tmp_path / "cut").finished
    assert resume(tmp_path / "cut", progress=False).finished
    assert records(tmp_path / "cut") == records(finished)
    # Killed between the checkpoint and the evaluation that follows it: it is made up for.
    lines = (finished / "evaluations.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(finished, tmp_path / "killed")
    (tmp_path / "killed" / "evaluations.jsonl").write_text("".join(lines[:-2]))
    resume(tmp_path / "killed", progress=False)
    assert records(tmp_path / "killed") == records(finished)


def test_overrides_of_an_evaluation_change_the_adaptation_and_the_files_names(finished):
    few = {"protocol": "mql", "seeds": [0, 1], "num_tasks": 4, "references": False}
    full = evaluate_run(finished, **few)
    plain = evaluate_run(finished, **few, overrides=["adaptation=none"])
    assert np.array_equal(full.returns[..., 0], plain.returns[..., 0])
    assert not np.array_equal(full.returns[..., 1:], plain.returns[..., 1:])
    path = finished / "report_test_mql_adaptation-none.json"
    assert np.array_equal(Report.from_json(path).returns, plain.returns)
    notes = json.loads((finished / "adaptation_test_mql.json").read_text())["records"]
    assert len(notes) == 2 * 4
    assert not (finished / "adaptation_test_mql_adaptation-none.json").exists()
    result = compare(full, plain, names=("full", "none"))
    pairs = full.scores - plain.scores
    assert result.difference.value == pytest.approx(pairs.mean())
    assert result.difference.low <= result.difference.value <= result.difference.high
    assert result.better == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert "paired over 4 tasks and 2 trial seeds" in str(result)
    with pytest.raises(ValueError, match="results on the same seeds"):
        compare(full, evaluate_run(finished, **few | {"seeds": [0]}))
    with pytest.raises(ConfigError, match="an evaluation of mql cannot change 'gamma'; it can change: adap"):
        load_agent(finished, overrides=["gamma=0.5"])
    with pytest.raises(ConfigError, match="adaptation must be one of"):
        load_agent(finished, overrides=["adaptation=maybe"])


def test_a_finished_run_is_evaluated_on_the_validation_tasks(finished):
    report = evaluate_run(finished, split="validation", protocol="mql", seeds=[0])
    assert report.returns.shape == (1, 10, 3)
    assert report.protocol.split == "validation"
    assert set(report.references) >= {"zero", "random"}
    assert Report.from_json(finished / "report_validation_mql.json").protocol == report.protocol
    assert (finished / "report_validation_mql.png").exists()
    few = evaluate_run(finished, split="validation", protocol="mql", seeds=[0], num_tasks=3, references=False)
    assert few.returns.shape == (1, 3, 3)


def test_adaptation_episodes_may_have_a_time_limit_of_their_own(finished):
    report = evaluate_run(finished, protocol="mql_800", num_tasks=3, references=False)
    assert report.lengths.shape == (1, 3, 3)
    assert (report.lengths[..., 0] == 800).all()
    assert (report.lengths[..., 1:] == 20).all()
    assert (report.metric("return").shape) == (1, 3, 3)


def test_test_curves_are_plotted(finished, tmp_path):
    plot_learning([finished], tmp_path / "a.png", metrics=["evaluate/return"])
    plot_learning([finished], tmp_path / "b.png", metrics=["evaluate/proximal"])
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    train("td3", ENV, out=tmp_path / "td3", overrides=["small_buffer=0", "updates_per_iteration=1"],
          steps=8500, progress=False)  # fmt: skip
    with pytest.raises(RunError, match=r"evaluations.jsonl is missing or empty"):
        plot_learning([tmp_path / "td3"], tmp_path / "c.png", metrics=["evaluate/return"])
    assert not set(EVALUATION_GLOSSARY) & set(GLOSSARY) - {"iteration", "env_steps"}


def test_an_unknown_protocol_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="unknown protocol 'mq1'"):
        train("mql", ENV, out=tmp_path / "x", overrides=[*TINY_MQL, "evaluate_every=1",
              "evaluation_protocols=mq1"], steps=2000, progress=False)  # fmt: skip
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match=r"evaluation_split: .*'train', 'validation', 'test', not 'ood'"):
        train("mql", ENV, out=tmp_path / "x", overrides=[*TINY_MQL, "evaluate_every=1",
              "evaluation_split=ood"], steps=2000, progress=False)  # fmt: skip
