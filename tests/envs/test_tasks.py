"""Tasks: as values, and sampled beyond the tables."""

import copy
import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from representatives import IDS

import metarl_envs
from metarl_envs import Task

each_id = pytest.mark.parametrize("family_id", IDS)
FEW = settings(max_examples=50, deadline=None)


texts = st.text(max_size=8)
finite = st.floats(allow_nan=False)
task_values = st.builds(Task, texts, texts, st.integers(-1, 2**40), st.lists(finite, max_size=5).map(tuple))


@FEW
@given(task=task_values)
def test_tasks_survive_json_and_pickle(task):
    again = Task.from_dict(json.loads(json.dumps(task.to_dict())))
    assert again == task
    assert hash(again) == hash(task)
    assert again.vector.tobytes() == task.vector.tobytes()
    assert pickle.loads(pickle.dumps(task)) == task
    assert copy.deepcopy(task) == task
    assert {task: 1}[again] == 1


@FEW
@given(a=task_values, b=task_values)
def test_tasks_compare_as_their_fields(a, b):
    left, right = ((t.family, t.split, t.index, t.parameters) for t in (a, b))
    assert (a == b) == (left == right)
    assert (a < b) == (left < right)
    assert sorted([a, b]) == sorted([b, a])
    if a == b:
        assert hash(a) == hash(b)


@FEW
@given(task=task_values)
def test_tasks_are_immutable(task):
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.index = 3
    vector = task.vector
    assert vector.dtype == np.float64
    assert vector.shape == (len(task.parameters),)
    vector[:] = 7.0
    task.to_dict()["parameters"].append(1.0)
    assert task.vector.tolist() == list(task.parameters)
    assert task.vector is not task.vector


WRONG = {
    "family": (None, 3, ["x"]),
    "split": (None, 3, {}),
    "index": (None, 1.5, "1", True, [1], float("nan")),
    "parameters": (None, 3.0, "12", [None], ["1.0"], [[1.0]], {"a": 1}, [True]),
}


@pytest.mark.parametrize("key", WRONG)
def test_from_dict_takes_only_what_to_dict_writes(key):
    good = Task("F-v0", "train", 1, (1.0, 2.0)).to_dict()
    lacking = {k: v for k, v in good.items() if k != key}
    for bad in [lacking, {**good, "extra": 1}, *({**good, key: v} for v in WRONG[key])]:
        with pytest.raises(ValueError, match=r"a task's (dict|family|split|index|parameters)"):
            Task.from_dict(bad)


# Sampling beyond the tables


@pytest.mark.long
@each_id
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 30), data=st.data())
def test_sampled_tasks(family_id, seed, n, data):
    family = metarl_envs.family(family_id)
    split = data.draw(st.sampled_from(tuple(family.splits)))
    drawn = family.sample_tasks(n, np.random.default_rng(seed), split)
    assert len(drawn) == n
    assert drawn == family.sample_tasks(n, np.random.default_rng(seed), split)
    assert {(t.family, t.split) for t in drawn} <= {(family_id, split)}
    if family.train_equals_test:
        assert set(drawn) <= set(family.tasks(split))
    else:
        assert {t.index for t in drawn} <= {-1}
        table = {t.parameters for s in family.splits for t in family.tasks(s)}
        assert not table & {t.parameters for t in drawn}
    if n:
        rows = np.array([t.parameters for t in drawn])
        assert family.splits[split].distribution.contains(rows).all()
    assert all(family.task_space.contains(t.vector) for t in drawn)
    for task in drawn:
        assert family.resolve_task(task, split) == task
        assert family.resolve_task(json.loads(json.dumps(task.to_dict())), split) == task


@each_id
def test_sampling_continues_its_generator(family_id):
    family = metarl_envs.family(family_id)
    rng = np.random.default_rng(0)
    first, second = (family.sample_tasks(30, rng) for _ in range(2))
    assert first != second
    together = family.sample_tasks(60, np.random.default_rng(0))
    assert together == (*first, *second)


@each_id
def test_families_are_looked_up_once(family_id):
    assert metarl_envs.family(family_id) is metarl_envs.family(family_id)
    family = metarl_envs.family(family_id)
    assert family.task("train", 0) is family.tasks()[0]
    with pytest.raises(ValueError, match="did you mean 'train'"):
        family.tasks("trian")
    with pytest.raises(ValueError, match="at least 0"):
        family.sample_tasks(-1, np.random.default_rng(0))


def test_a_fixed_start_is_that_of_the_task_and_of_nothing_else():
    """The generator of a fixed start is seeded by the digest of the task's sorted JSON, stated here again."""
    env_id = next(i for i in IDS if metarl_envs.family(i).fixed_starts)
    split = metarl_envs.family(env_id).fixed_starts[0]
    tasks = metarl_envs.family(env_id).tasks(split)[:2]
    env = metarl_envs.MetaEnv(env_id, split=split, task=tasks[0])
    starts = []
    for seed, task in ((0, tasks[0]), (1, tasks[0]), (0, tasks[1])):
        starts.append(env.reset(seed=seed, options={"task": task})[0])
        text = json.dumps(
            {
                "family": env_id,
                "index": task.index,
                "parameters": list(task.parameters),
                "split": split,
            }
        )
        digest = hashlib.sha256(text.encode()).digest()
        expected = np.random.PCG64(int.from_bytes(digest[:16], "little"))
        assert env._core._start_generator(0).bit_generator.state == expected.state
    assert (starts[0] == starts[1]).all()
    assert (starts[0] != starts[2]).any()
