"""The files of the frozen tables: damage is refused, and freezing writes them to the byte."""

import json

import numpy as np
import pytest
from representatives import IDS, first_of_each, ids_with

import metarl_envs
from metarl_envs import SpecError
from metarl_envs.families import tables

DISCRETE = [i for i in IDS if metarl_envs.family(i).train_equals_test]
CONTINUOUS = [i for i in IDS if i not in DISCRETE]
each_id = pytest.mark.parametrize("family_id", IDS)
each_continuous = pytest.mark.parametrize("family_id", CONTINUOUS)
each_rule = pytest.mark.parametrize(
    "family_id", ids_with(first_of_each(lambda i: metarl_envs.family(i).table_rule))
)


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


@pytest.mark.long
@each_continuous
def test_a_split_is_added_to_a_frozen_family(spec_folder, family_id, frozen_digits):
    path, section = spec_folder / "tables" / f"{family_id}.json", "splits.validation"
    frozen, recorded = path.read_bytes(), (spec_folder / "checksums.json").read_bytes()
    _rewrite(path, lambda c: c.pop("validation") and None)
    _rewrite(
        spec_folder / "checksums.json",
        lambda c: c["tables"][family_id].pop("validation") and c["specs"][family_id].pop(section) and None,
    )
    tables.checksums.cache_clear()
    with pytest.raises(SpecError, match=f"{section} is not frozen yet"):
        metarl_envs.family(family_id).tasks("train")
    assert tables.freeze(metarl_envs.family(family_id)) == (section,)
    assert path.read_bytes() == frozen
    # A table that was lost is derived again.
    _rewrite(path, lambda c: c.pop("validation") and None)
    with pytest.raises(SpecError, match="holds the splits"):
        tables.load(metarl_envs.family(family_id))
    assert tables.freeze(metarl_envs.family(family_id)) == (section,)
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


@pytest.mark.long
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
