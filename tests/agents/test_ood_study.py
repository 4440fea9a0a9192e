"""The out-of-distribution study of MQL, cut down, on a family with two tasks in each split."""

import dataclasses
import json

import pytest
from test_run import TINY_MQL

from metarl_agents.common.config import ConfigError
from metarl_agents.run.ood_study import OODStudy

REPLACED = ("initial_steps", "steps_per_task", "capacity_per_task")
SMALL = [text for text in TINY_MQL if text.split("=")[0] not in REPLACED]


@pytest.mark.long
def test_the_study_trains_evaluates_and_draws_and_goes_on_where_it_was(tmp_path):
    study = OODStudy(
        tmp_path / "study",
        steps=2 * 200 + 4 * 600,
        overrides=[*SMALL, "initial_steps=200", "steps_per_task=1", "capacity_per_task=400"],
        evaluations=2,
        seeds=(0,),
        families=("MetaAnt-Crippled-v0",),
        budgets=("mql",),
    )
    said = []
    path = study.run(progress=False, say=said.append)
    content = json.loads(path.read_text())
    assert set(content["families"]) == set(study.families)
    figures = content["families"][study.families[0]]["mql"]
    assert set(figures) == {"mql_iqm", "td3_context_iqm", "difference", "lambda", "beta"}
    assert 0.0 <= figures["beta"] <= 2.72
    assert len(said) == 1
    run_dir = study.folder / study.families[0]
    records = [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in records] == [2, 4]
    assert all(0.0 < r["evaluate/proximal"] <= 1.0 for r in records)
    assert (study.folder / "study.png").stat().st_size > 1000
    metrics = (run_dir / "metrics.jsonl").read_bytes()
    assert study.run(progress=False, say=said.append) == path
    assert (run_dir / "metrics.jsonl").read_bytes() == metrics


def test_families_without_shifted_tasks_are_refused(tmp_path):
    study = OODStudy(tmp_path / "study", families=("MetaPoint-Goal-v0",))
    with pytest.raises(ConfigError, match="has no split 'ood'"):
        study.run(progress=False)
    with pytest.raises(ConfigError, match="unknown protocol"):
        dataclasses.replace(study, families=(), budgets=("x",)).run(progress=False)
    assert not (tmp_path / "study").exists()
