"""Tasks, their distributions, and the frozen tables."""

import copy
import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from representatives import IDS, first_of_each, ids_with

import metarl_envs
from metarl_envs import SpecError, Task
from metarl_envs.evaluation import Protocol, ZeroAgent, evaluate
from metarl_envs.families import directories, distributions, specs, tables
from metarl_envs.families.distributions import Annulus, Arc, Choice, Disc, Pair, Power, Ring, Uniform
from metarl_envs.families.tables import Split
from metarl_envs.pages.page import page

DISCRETE = [i for i in IDS if metarl_envs.family(i).train_equals_test]
CONTINUOUS = [i for i in IDS if i not in DISCRETE]
each_id = pytest.mark.parametrize("family_id", IDS)
each_continuous = pytest.mark.parametrize("family_id", CONTINUOUS)
each_rule = pytest.mark.parametrize(
    "family_id", ids_with(first_of_each(lambda i: metarl_envs.family(i).table_rule))
)
FEW = settings(max_examples=50, deadline=None)


# Tasks

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


# Distributions


@st.composite
def _distributions(draw):
    number = st.floats(-50, 50)
    width = st.floats(0.01, 50)
    kinds = ["uniform", "disc", "arc", "choice", "annulus", "ring", "power", "pair"]
    kind = draw(st.sampled_from(kinds))
    if kind == "uniform":
        low = draw(st.lists(number, min_size=1, max_size=4))
        return Uniform(tuple(low), tuple(x + draw(width) for x in low))
    if kind == "disc":
        return Disc(draw(width))
    if kind == "arc":
        low = draw(st.floats(-3.14, 3.14))
        return Arc(draw(width), low, low + draw(st.floats(0.01, 6.28)))
    if kind in ("annulus", "ring"):
        inner = draw(st.floats(0.0, 50.0))
        return (Annulus if kind == "annulus" else Ring)(inner, inner + draw(width))
    if kind == "power":
        bases = draw(st.lists(st.floats(1.1, 3.0), min_size=1, max_size=4))
        low = draw(st.floats(-3.0, 2.0))
        return Power(tuple(bases), low, low + draw(st.floats(0.01, 3.0)))
    if kind == "pair":
        half_width = draw(st.floats(1.0, 50.0))
        farthest = draw(st.floats(0.1, 0.99)) * half_width
        return Pair(half_width, draw(st.floats(0.0, 0.9)) * farthest, farthest)
    size = draw(st.integers(1, 3))
    values = draw(st.lists(st.tuples(*[number] * size), min_size=1, max_size=5, unique=True))
    return Choice(tuple(values))


@FEW
@given(distribution=_distributions(), seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40))
def test_samples_lie_in_their_distribution(distribution, seed, n):
    rows = distribution.sample(n, np.random.default_rng(seed))
    assert rows.dtype == np.float64
    assert rows.shape[0] == n
    assert distribution.contains(rows).shape == (n,)
    assert distribution.contains(rows).all()
    np.testing.assert_array_equal(rows, distribution.sample(n, np.random.default_rng(seed)))
    far = np.full((1, rows.shape[1]), 1e4)
    assert not distribution.contains(far).any()
    assert distribution.describe()


@FEW
@given(distribution=_distributions(), data=st.data())
def test_the_extreme_uniforms_map_into_the_distribution(distribution, data):
    edge = st.sampled_from([0.0, 1.0 - 2.0**-53, 2.0**-53, 0.5])
    u = np.array([[data.draw(edge) for _ in range(distribution.uniforms)] for _ in range(4)])
    assert distribution.contains(distribution.from_uniforms(u)).all()


def test_a_disc_is_uniform_in_area():
    rows = Disc(3.0).sample(20_000, np.random.default_rng(0))
    inside = np.hypot(*rows.T) < 1.5
    # A quarter of the area; the standard error is 0.003.
    assert inside.mean() == pytest.approx(0.25, abs=0.015)
    # Each quadrant has a quarter.
    quadrants = np.bincount(2 * (rows[:, 0] > 0) + (rows[:, 1] > 0), minlength=4) / len(rows)
    np.testing.assert_allclose(quadrants, 0.25, atol=0.015)


def test_a_ring_is_uniform_in_distance_and_an_annulus_in_area():
    both = [d.sample(20_000, np.random.default_rng(0)) for d in (Ring(3, 7), Annulus(3, 7))]
    near = [np.hypot(*rows.T) < 5.0 for rows in both]
    assert near[0].mean() == pytest.approx(0.5, abs=0.015)
    assert near[1].mean() == pytest.approx((25 - 9) / (49 - 9), abs=0.015)


def test_a_pair_keeps_its_distance_and_fills_the_room():
    rows = Pair(4.0, 0.5, 2.0).sample(20_000, np.random.default_rng(0))
    apart = np.hypot(rows[:, 2] - rows[:, 0], rows[:, 3] - rows[:, 1])
    assert (apart < 1.25).mean() == pytest.approx((1.25**2 - 0.25) / (4 - 0.25), abs=0.015)
    assert np.abs(rows).max() > 3.99
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=0.05)


def test_a_box_and_a_choice_are_uniform():
    rows = Uniform((0.0, -2.0), (1.0, 2.0)).sample(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(rows.mean(axis=0), [0.5, 0.0], atol=0.04)
    np.testing.assert_allclose(rows.std(axis=0), [12**-0.5, 4 * 12**-0.5], atol=0.02)
    members = Choice(((-1.0,), (0.0,), (1.0,))).sample(9_000, np.random.default_rng(0))
    np.testing.assert_allclose([(members == v).mean() for v in (-1, 0, 1)], 1 / 3, atol=0.02)


# Frozen tables


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


# Damage


def _rewrite(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def _nudge(content):
    content["test"][1][0] = float(np.nextafter(content["test"][1][0], 9.0))


def _swap(content):
    rows = content["train"]
    rows[0], rows[1] = rows[1], rows[0]


@pytest.mark.parametrize("change", [_nudge, _swap])
@each_rule
def test_a_changed_table_is_a_clear_error(spec_folder, family_id, change):
    """Not a digit, not the order: whatever asks for a task gets the sentence."""
    _rewrite(spec_folder / "tables" / f"{family_id}.json", change)
    family = metarl_envs.family(family_id)
    for use in (
        lambda: family.tasks("train"),
        lambda: family.task("test", 0),
        lambda: metarl_envs.MetaEnv(family_id),
        lambda: metarl_envs.MetaVectorEnv(family_id, 2),
    ):
        with pytest.raises(SpecError, match=rf"{family_id}\.json.*checksum.*not the frozen one"):
            use()


DAMAGE = {
    "missing": lambda p: p.unlink(),
    "cut off": lambda p: p.write_text(p.read_text()[:-40]),
    "empty": lambda p: p.write_text(""),
    "a list": lambda p: p.write_text("[]"),
    "a number": lambda p: p.write_text("3"),
    "no test split": lambda p: _rewrite(p, lambda c: {k: c[k] for k in c if k != "test"}),
    "another split": lambda p: _rewrite(p, lambda c: {**c, "ood": c["test"]}),
    "a row less": lambda p: _rewrite(p, lambda c: {**c, "train": c["train"][:-1]}),
    "a number less": lambda p: _rewrite(p, lambda c: {**c, "test": [r[:-1] for r in c["test"]]}),
    "a ragged row": lambda p: _rewrite(p, lambda c: {**c, "test": [*c["test"][:-1], [1.0, 2.0, 3.0]]}),
    "words": lambda p: _rewrite(p, lambda c: {**c, "test": [["x"] for _ in c["test"]]}),
    "null": lambda p: _rewrite(p, lambda c: {**c, "test": None}),
    "tables in tables": lambda p: _rewrite(p, lambda c: {**c, "test": {"0": 1}}),
}


@each_id
def test_a_missing_table_is_a_clear_error(spec_folder, family_id):
    DAMAGE["missing"](spec_folder / "tables" / f"{family_id}.json")
    with pytest.raises(SpecError, match=rf"{family_id}\.json"):
        metarl_envs.family(family_id).tasks("train")


@pytest.mark.parametrize("kind", DAMAGE)
@each_rule
def test_a_damaged_table_is_a_clear_error(spec_folder, family_id, kind):
    DAMAGE[kind](spec_folder / "tables" / f"{family_id}.json")
    with pytest.raises(SpecError, match=rf"{family_id}\.json"):
        metarl_envs.family(family_id).tasks("train")


@each_id
def test_a_table_without_a_recorded_checksum_is_refused(spec_folder, family_id):
    _rewrite(spec_folder / "checksums.json", lambda c: c["tables"].pop(family_id) and None)
    with pytest.raises(SpecError, match="checksum"):
        metarl_envs.family(family_id).tasks("train")


@pytest.fixture
def frozen_digits(family_id, monkeypatch):
    """Derives tables with the frozen digits: of powers the last one differs between machines."""
    rows = tables.load(metarl_envs.family(family_id))
    monkeypatch.setattr(tables, "derive", lambda family: dict(rows))


@each_continuous
def test_a_split_is_added_to_a_frozen_family(spec_folder, family_id, frozen_digits):
    path = spec_folder / "tables" / f"{family_id}.json"
    frozen, recorded = path.read_bytes(), (spec_folder / "checksums.json").read_bytes()
    _rewrite(path, lambda c: c.pop("validation") and None)
    _rewrite(spec_folder / "checksums.json", lambda c: c["tables"][family_id].pop("validation") and None)
    tables.checksums.cache_clear()
    with pytest.raises(SpecError, match="holds the splits"):
        metarl_envs.family(family_id).tasks("train")
    assert tables.freeze(metarl_envs.family(family_id)) == ("validation",)
    assert path.read_bytes() == frozen
    assert (spec_folder / "checksums.json").read_bytes() == recorded
    # What is frozen is taken as it is or refused, never written anew.
    _rewrite(path, lambda c: _nudge(c) or (c.pop("validation") and None))
    with pytest.raises(SpecError, match="checksum"):
        tables.freeze(metarl_envs.family(family_id))


def test_a_split_that_shares_tasks_is_not_frozen(spec_folder, monkeypatch):
    path = spec_folder / "tables" / "MetaPoint-Goal-v0.json"
    _rewrite(path, lambda c: c.pop("validation") and None)
    family = metarl_envs.family("MetaPoint-Goal-v0")
    derived = tables.derive(family)
    monkeypatch.setattr(tables, "derive", lambda f: {**derived, "validation": derived["train"][:10]})
    with pytest.raises(SpecError, match="train and validation share 10 tasks"):
        tables.freeze(family)
    assert "validation" not in json.loads(path.read_text())


def test_frozen_tables_are_not_frozen_again(spec_folder):
    family = metarl_envs.family(IDS[0])
    before = {p: p.read_bytes() for p in spec_folder.rglob("*.json")}
    with pytest.raises(SpecError, match="new version"):
        tables.freeze(family)
    assert {p: p.read_bytes() for p in spec_folder.rglob("*.json")} == before


@each_id
def test_freezing_reproduces_the_shipped_files(spec_folder, family_id, frozen_digits):
    """The files in the repository are what `freeze` writes, to the byte."""
    path = spec_folder / "tables" / f"{family_id}.json"
    frozen, recorded = path.read_bytes(), (spec_folder / "checksums.json").read_bytes()
    path.unlink()
    _rewrite(spec_folder / "checksums.json", lambda c: c["tables"].pop(family_id) and None)
    tables.checksums.cache_clear()
    tables.freeze(metarl_envs.family(family_id))
    assert path.read_bytes() == frozen
    assert (spec_folder / "checksums.json").read_bytes() == recorded


# Sampling beyond the tables


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


@each_id
def test_families_are_looked_up_once(family_id):
    assert metarl_envs.family(family_id) is metarl_envs.family(family_id)
    family = metarl_envs.family(family_id)
    assert family.task("train", 0) is family.tasks()[0]
    with pytest.raises(ValueError, match="did you mean 'train'"):
        family.tasks("trian")
    with pytest.raises(ValueError, match="negative"):
        family.sample_tasks(-1, np.random.default_rng(0))
