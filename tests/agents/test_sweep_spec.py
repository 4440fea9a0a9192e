"""Specifications of sweeps: the jobs they describe, and the names of the jobs' directories."""

import dataclasses
import json
import re

import pytest

from metarl_agents.common.config import ConfigError
from metarl_agents.sweep import job as job_module
from metarl_agents.sweep.job import Job, digest, make_job
from metarl_agents.sweep.spec import read_spec

POINT = "MetaPoint-Goal-v0"


def write(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return path


def test_jobs_are_the_product_of_a_group_in_the_order_of_the_file(tmp_path):
    jobs = read_spec(
        write(
            tmp_path,
            f"""
            families = ["{POINT}"]
            seeds = [3, 1]
            splits = ["validation", "test"]
            trial_seeds = [5]
            [[groups]]
            agents = ["pearl", "rl2"]
            [[groups]]
            agents = ["maml"]
            seeds = [0]
            overrides = [{{ hidden = [8, 4], second_order = false }}, {{}}]
            protocols = ["promp", "maml"]
            tasks = 2
            """,
        )
    )
    assert [(j.agent, j.seed) for j in jobs] == [
        ("pearl", 3), ("pearl", 1), ("rl2", 3), ("rl2", 1), ("maml", 0), ("maml", 0)
    ]  # fmt: skip
    assert [(e.protocol, e.split, e.seeds, e.tasks) for e in jobs[0].evaluations] == [
        ("pearl", "validation", (5,), None),
        ("pearl", "test", (5,), None),
    ]
    # Without protocols, an agent's own; RL2's is rl2.
    assert {e.protocol for e in jobs[2].evaluations} == {"rl2"}
    changed = jobs[4]
    assert changed.config["hidden"] == [8, 4]
    assert changed.config["second_order"] is False
    assert changed.command == (
        f"metarl train maml {POINT} --preset fast --seed 0 --set hidden=8,4 --set second_order=false"
    )
    assert len(changed.evaluations) == 4
    assert len({j.name for j in jobs}) == 6


def test_a_job_that_occurs_twice_has_the_evaluations_of_both(tmp_path):
    text = f"""
        agents = ["pearl"]
        families = ["{POINT}"]
        seeds = [0]
        [[groups]]
        splits = ["test"]
        [[groups]]
        splits = ["test", "validation"]
        """
    (job,) = read_spec(write(tmp_path, text))
    assert [e.split for e in job.evaluations] == ["test", "validation"]


def test_a_jobs_name_depends_on_what_decides_its_result_and_on_nothing_else(monkeypatch):
    job = make_job("pearl", POINT, "fast", 0, {}, "cpu")
    others = [
        make_job("pearl", POINT, "fast", 1, {}, "cpu"),
        make_job("crl", POINT, "fast", 0, {}, "cpu"),
        make_job("pearl", "MetaHalfCheetah-Vel-v0", "fast", 0, {}, "cpu"),
        make_job("pearl", POINT, "fast", 0, {"hidden": "7"}, "cpu"),
        make_job("pearl", POINT, "fast", 0, {}, "cuda"),
    ]
    assert len({job.key, *(other.key for other in others)}) == 6
    bookkeeping = {"checkpoint_every": "9", "evaluate_every": "2", "evaluation_split": "validation"}
    assert make_job("pearl", POINT, "fast", 0, bookkeeping, "cpu").key == job.key
    assert dataclasses.replace(job, preset="of the same values", evaluations=()).key == job.key
    key = job.key
    monkeypatch.setattr(job_module, "family_checksums", lambda env_id: {"train": "other", "model": None})
    assert job.key != key


def test_hashes_do_not_depend_on_the_process_or_the_order_of_keys():
    identity = {"agent": "pearl", "seed": 0, "config": {"gamma": 0.99, "hidden": [300, 300]}}
    turned = {"config": {"hidden": [300, 300], "gamma": 0.99}, "seed": 0, "agent": "pearl"}
    assert digest(identity) == digest(turned)
    assert digest(identity) == "b904f130d5d5c98e136b0262ffca4620947275a9fb78201150fdd090c649514b"


def test_a_job_is_read_as_it_was_written(tmp_path):
    text = f'agents = ["promp"]\nfamilies = ["{POINT}"]\nseeds = [4]\noverrides = {{ gamma = 0.9 }}'
    (job,) = read_spec(write(tmp_path, text))
    path = job.write(tmp_path)
    assert path.name == job.name
    assert Job.read(path) == job
    assert json.loads((path / "job.json").read_text())["key"] == job.key
    with pytest.raises(ConfigError, match="is not the directory of a job"):
        Job.read(tmp_path)


BASE = f'agents = ["pearl"]\nfamilies = ["{POINT}"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents = [", "cannot be read as a specification"),
        (f'families = ["{POINT}"]', "group 1: agents must be a list: names of agents; got None"),
        (BASE + "sedes = [1]", "unknown key 'sedes'; did you mean 'seeds'?"),
        (BASE + "seeds = 1", "seeds must be a list: training seeds; got 1"),
        (BASE + "seeds = [1, 1]", "seeds contains an entry twice"),
        (BASE + "seeds = [-1]", "seeds must not be negative"),
        (BASE + "seeds = [true]", "seeds must be a list"),
        (BASE + "presets = []", "presets must be a list"),
        (BASE + 'presets = ["quick"]', "unknown preset 'quick'"),
        (BASE + "overrides = { hiden = 3 }", "unknown configuration key 'hiden'"),
        (BASE + "overrides = { hidden = { a = 1 } }", "the override hidden must be a number"),
        (BASE + 'protocols = ["perl"]', "unknown protocol 'perl'"),
        (BASE + 'splits = ["ood"]', "has the splits 'train', 'validation', 'test', not 'ood'"),
        (BASE + "tasks = 21", "tasks must be at most 20, the size of split 'test'"),
        (BASE + "tasks = 0", "tasks must be a whole number of at least 1"),
        (BASE + "device = 0", "device must be a text"),
        (BASE + "groups = 3", r"groups must be written as \[\[groups\]\]"),
        ('agents = ["perl"]\nfamilies = ["x"]', "x"),
        (BASE + '[[groups]]\n[[groups]]\nagents = ["perl"]', "group 2: unknown agent 'perl'"),
    ],
)
def test_a_bad_specification_is_refused_with_the_place_and_what_is_allowed(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_spec(path)
    assert re.match(re.escape(str(path)), str(caught.value))
