"""The frozen tables: how they are derived, and what each of them holds."""

import dataclasses
import hashlib

import numpy as np
import pytest
from representatives import IDS

import metarl_envs
from metarl_envs.evaluation import Protocol, ZeroAgent, evaluate
from metarl_envs.families import directories, distributions, specs, tables
from metarl_envs.families.tables import Split
from metarl_envs.pages.page import page

DISCRETE = [i for i in IDS if metarl_envs.family(i).train_equals_test]
CONTINUOUS = [i for i in IDS if i not in DISCRETE]
each_id = pytest.mark.parametrize("family_id", IDS)
each_continuous = pytest.mark.parametrize("family_id", CONTINUOUS)


@pytest.mark.long
@each_id
def test_derived_tables_are_the_frozen_ones(family_id):
    family = metarl_envs.family(family_id)
    derived, frozen = tables.derive(family), tables.load(family)
    assert list(derived) == list(frozen) == list(family.splits)
    for name, rows in frozen.items():
        # Sine and cosine may differ in the last digit between machines; the rest is exact.
        np.testing.assert_allclose(derived[name], rows, rtol=0.0, atol=1e-12)
        assert [task.parameters for task in family.tasks(name)] == [tuple(row) for row in rows.tolist()]
        assert [task.index for task in family.tasks(name)] == list(range(len(rows)))
        assert {(task.family, task.split) for task in family.tasks(name)} == {(family_id, name)}


@each_id
def test_checksums_are_of_name_shape_and_digits(family_id):
    """Written out here, so that the definition cannot drift unseen."""
    recorded = tables.checksums(directories.spec_directory())["tables"][family_id]
    for name, rows in tables.load(metarl_envs.family(family_id)).items():
        content = f"{family_id}/{name}/{rows.shape}".encode() + rows.astype("<f8").tobytes()
        assert recorded[name] == hashlib.sha256(content).hexdigest()


@each_id
def test_tables_lie_in_their_distributions_and_the_task_space(family_id):
    family = metarl_envs.family(family_id)
    for name, split in family.splits.items():
        rows = np.array([task.parameters for task in family.tasks(name)])
        assert split.distribution.contains(rows).all()
        assert all(family.task_space.contains(row) for row in rows)
        assert len(np.unique(rows, axis=0)) == len(rows)


@each_id
def test_train_and_test_are_disjoint_or_declared_equal(family_id):
    family = metarl_envs.family(family_id)
    splits = {name: {task.parameters for task in family.tasks(name)} for name in family.splits}
    if family.train_equals_test:
        assert family.distribution.discrete
        assert splits["train"] == splits["test"]
    else:
        assert not family.distribution.discrete
        for a in splits:
            assert all(a == b or not splits[a] & splits[b] for b in splits)


def test_directions_are_two_and_declared():
    for family_id in DISCRETE:
        for tasks in (metarl_envs.family(family_id).tasks(split) for split in ("train", "test")):
            assert sorted(t.parameters[0] for t in tasks) == [-1.0, 1.0]
    tasks = metarl_envs.family("MetaHalfCheetah-Dir-v0").tasks("test")
    assert [t.parameters for t in tasks] == [(-1.0,), (1.0,)]


@each_continuous
def test_validation_is_of_the_training_distribution_and_apart_from_every_split(family_id):
    """Apart by more than the rounding between two ways to compute a task, whatever rule made the others."""
    family = metarl_envs.family(family_id)
    assert family.splits["validation"] == Split("validation", 10, family.splits["train"].distribution)
    assert list(family.splits) == [s for s in specs.SPLITS if s in family.splits]
    rows = {name: np.array([task.parameters for task in family.tasks(name)]) for name in family.splits}
    assert family.distribution.contains(rows["validation"]).all()
    for name, others in rows.items():
        if name != "validation":
            assert np.abs(rows["validation"][:, None] - others[None]).max(axis=2).min() > 1e-6
    assert family.subset("iwpa") == family.tasks("validation")[:3]
    assert tables.overlaps(family, rows) == []
    again = {**rows, "validation": np.concatenate([rows["validation"], rows["test"][:2] + 1e-12])}
    assert "validation and test share 2 tasks" in tables.overlaps(family, again)


@pytest.mark.long
@each_continuous
def test_validation_is_drawn_by_philox_whatever_the_table_rule(family_id):
    """More of them begin with the same ones, and no other split depends on them."""
    family = metarl_envs.family(family_id)
    assert "validation" not in family.table_splits or family.table_rule == "philox"
    drawn = np.stack(
        [
            family.splits["validation"].distribution.from_uniforms(
                tables._philox_uniforms(f"{family_id}/validation", i, family.distribution.uniforms)[None]
            )[0]
            for i in range(12)
        ]
    )
    np.testing.assert_allclose(drawn[:10], tables.load(family)["validation"], rtol=0.0, atol=1e-12)
    larger = dict(family.splits) | {
        "validation": dataclasses.replace(family.splits["validation"], count=12),
    }
    more = tables.derive(dataclasses.replace(family, splits=larger))
    np.testing.assert_allclose(more["validation"], drawn, rtol=0.0, atol=1e-12)
    del larger["validation"]
    without = tables.derive(dataclasses.replace(family, splits=larger))
    for name, rows in without.items():
        np.testing.assert_array_equal(rows, more[name])


@pytest.mark.parametrize("family_id", DISCRETE)
def test_a_family_of_members_says_that_it_has_no_validation_tasks(family_id):
    family = metarl_envs.family(family_id)
    assert "validation" not in family.splits
    message = rf"{family_id} has no validation tasks: all its tasks are in both.*'train', 'test'"
    for use in (
        lambda: family.tasks("validation"),
        lambda: family.task("validation", 0),
        lambda: family.sample_tasks(1, np.random.default_rng(0), "validation"),
        lambda: metarl_envs.MetaEnv(family_id, split="validation"),
        lambda: metarl_envs.MetaVectorEnv(family_id, 2, split="validation"),
        lambda: evaluate(ZeroAgent(), family, Protocol(split="validation")),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert "so there is no validation split" in page(family)


def _with_counts(family, factor):
    larger = {n: dataclasses.replace(s, count=s.count * factor) for n, s in family.splits.items()}
    return dataclasses.replace(family, splits=larger)


PHILOX = [i for i in IDS if metarl_envs.family(i).table_rule == "philox"]


@pytest.mark.parametrize("family_id", PHILOX)
def test_a_task_does_not_depend_on_how_many_there_are(family_id):
    family = metarl_envs.family(family_id)
    small, large = tables.derive(family), tables.derive(_with_counts(family, 3))
    for name, rows in small.items():
        assert len(large[name]) == 3 * len(rows)
        np.testing.assert_array_equal(large[name][: len(rows)], rows)


def _philox_tables(count):
    """Tables of three families with three splits each, all over the unit square."""
    content = specs.read_toml(directories.spec_directory() / "MetaPoint-Goal-v0.toml")
    content["table"] = {"rule": "philox"}
    for split in content["splits"].values():
        split["count"] = count
    return [tables.derive(specs.parse(name, content)) for name in ("A-v0", "A-v1", "B-v0")]


def test_families_versions_splits_and_indices_draw_different_numbers():
    rows = np.concatenate([t[s] for t in _philox_tables(50) for s in ("train", "validation", "test")])
    assert len(np.unique(rows)) == rows.size == 3 * 3 * 50 * 2
    # And they are not shifted copies of one stream: their correlations are those of chance.
    columns = rows.reshape(9, -1)
    assert np.abs(np.corrcoef(columns) - np.eye(9)).max() < 0.4


def test_philox_tables_are_uniform():
    rows = np.concatenate([t["train"] for t in _philox_tables(500)])
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=0.06)
    np.testing.assert_allclose(rows.std(axis=0), 2 * 12**-0.5, atol=0.03)
    assert (np.abs(rows) <= 1.0).all()


def test_philox_is_used_as_it_is_documented():
    """Key: the first half of SHA-256 of 'id/split'; the index in the counter's second word; upper 53 bits."""
    family = metarl_envs.family("MetaAnt-Goal-v0")
    key = int.from_bytes(hashlib.sha256(b"MetaAnt-Goal-v0/test").digest()[:16], "little")
    for index in (0, 1, 29):
        bits = np.random.Philox(key=key, counter=[0, index, 0, 0]).random_raw(2)
        angle, area = (bits >> np.uint64(11)) * 2.0**-53
        goal = 3.0 * np.sqrt(area) * np.array([np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)])
        np.testing.assert_allclose(family.task("test", index).vector, goal, rtol=0.0, atol=1e-12)


def test_an_ood_split_has_its_own_distribution_and_table():
    """No shipped family has one yet; the machinery holds for the next."""
    content = specs.read_toml(directories.spec_directory() / "MetaAnt-Goal-v0.toml")
    content["splits"]["ood"] = {"count": 7, "distribution": {"kind": "disc", "radius": 9.0}}
    family = specs.parse("MetaAnt-Goal-v0", content)
    derived = tables.derive(family)
    assert list(derived) == ["train", "validation", "test", "ood"]
    assert derived["ood"].shape == (7, 2)
    np.testing.assert_array_equal(derived["test"], tables.load(metarl_envs.family(family.id))["test"])
    far = family.sample_tasks(50, np.random.default_rng(0), "ood")
    assert max(np.hypot(*t.parameters) for t in far) > 3.0
    assert {t.split for t in far} == {"ood"}
    assert isinstance(family.splits["ood"].distribution, distributions.Disc)
