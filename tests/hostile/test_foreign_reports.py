"""Reports that somebody has changed or damaged, and names that must not lead out of a folder."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from mutations import VALUES, places, replaced
from test_run import tiny
from typer.testing import CliRunner

from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.run.evaluate import evaluate_run, report_stem
from metarl_agents.sweep.job import Job
from metarl_envs import evaluation
from metarl_envs.evaluation import PROTOCOLS, Report
from metarl_envs.files import file_name

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "run"
    assert tiny(folder).finished
    evaluate_run(folder, num_tasks=2, seeds=(0, 1))
    return folder


@pytest.fixture(scope="module")
def content(run):
    (path,) = run.glob("report_*.json")
    return path.name, json.loads(path.read_text())


def use(path):
    """Everything that reads a report, but for pictures."""
    report = Report.from_json(path)
    str(evaluation.summarise(report))
    evaluation.pooled([report])
    evaluation.compare(report, report)
    report.to_json(path)


def short(content):
    """Without most rows of long lists."""
    if isinstance(content, dict):
        return {key: short(value) for key, value in content.items()}
    return [short(value) for value in content[:1]] if isinstance(content, list) else content


def test_a_value_of_another_kind_is_one_sentence(content, tmp_path):
    name, values = content
    path, used = tmp_path / name, 0
    for place in list(places(short(values))):
        for value in VALUES:
            path.write_text(json.dumps(replaced(values, place, value)))
            try:
                use(path)
            except ValueError as error:
                assert str(error)  # noqa: PT017  # any other kind of error fails the test
            else:
                used += 1
    assert used  # names and texts may be others


def test_damaged_bytes_are_one_sentence(content, tmp_path):
    name, values = content
    path, text, rng = tmp_path / name, json.dumps(values).encode(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(text)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(damaged))] if rng.random() < 0.2 else damaged)
        try:
            use(path)
        except ValueError as error:
            assert str(error)  # noqa: PT017


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_pipes_and_huge_numbers_of_episodes_are_refused(content, tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="not a file"):
        Report.from_json(tmp_path / "pipe.json")
    name, values = content
    many = replaced(replaced(values, ("condensed",), True), ("protocol", "episodes_per_update"), 10**12)
    (tmp_path / name).write_text(json.dumps(replaced(many, ("protocol", "adaptation_episodes"), 10**12)))
    with pytest.raises(ValueError, match="does not contain a report"):
        Report.from_json(tmp_path / name)


def test_plots_stay_in_their_folder(run, content, tmp_path):
    name, values = content
    copy = tmp_path / "deep" / "run"
    shutil.copytree(run, copy)
    for family in ("../../outside", "/tmp/outside", "a\\..\\b", "..", ".hidden", "x" * 500, "a\nb"):
        (copy / name).write_text(json.dumps(values | {"family": family, "agent": family}))
        out = tmp_path / "deep" / "out"
        before = {path for path in tmp_path.rglob("*") if out not in path.parents}
        done = CliRunner().invoke(app, ["plot", str(copy), "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert {path for path in tmp_path.rglob("*") if out not in path.parents} - {out} == before - {out}
        assert len([path for path in out.iterdir() if path.name.startswith("adaptation_")]) == 1
        assert all(path.is_file() for path in out.iterdir())
        shutil.rmtree(out)


def test_names_of_files_are_names():
    for text in ("..", "a/b", "a\\b", "", ".x", "\0", "a:b", "é" * 300, "a" * 300, "x\n"):
        name = file_name(text)
        assert name
        assert (Path("folder") / name).resolve().parent == Path("folder").resolve()
        assert not name.startswith(".")
        assert len(name.encode()) <= 160
        assert file_name(name) == name
    assert file_name("a" * 300) != file_name("a" * 301)
    for text in ("test_pearl_hidden-32,32_rate-1e-3", "MetaPoint-Goal-v0", "a=b", "x y"):
        assert file_name(text) == text
    away = evaluation.Protocol(**{**PROTOCOLS["pearl"].to_dict(), "name": "../../x"})
    assert "/" not in report_stem("test", away, ["encoder_hidden=../x"])


def test_jobs_whose_names_lead_away_are_refused(tmp_path):
    job = {
        "agent": "pearl", "env_id": "MetaPoint-Goal-v0", "preset": "fast", "seed": 0, "overrides": {},
        "device": "cpu", "config": {}, "key": "", "command": "",
        "evaluations": [{"protocol": "pearl", "split": "test", "seeds": [0], "tasks": None}],
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert Job.read(tmp_path).agent == "pearl"
    for place in (
        ("agent",),
        ("env_id",),
        ("preset",),
        ("evaluations", 0, "split"),
        ("evaluations", 0, "protocol"),
    ):
        for value in ("../x", "/x"):
            (tmp_path / "job.json").write_text(json.dumps(replaced(job, place, value)))
            with pytest.raises(ConfigError, match="cannot be the name of a file"):
                Job.read(tmp_path)
