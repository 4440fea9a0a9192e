"""Specifications, tables and checksums that somebody has changed or damaged."""

import json
import re
import shutil

import numpy as np
import pytest
from mutations import VALUES, places, replaced

import metarl_envs
from metarl_envs.families import specs, tables
from metarl_envs.families.directories import spec_directory
from metarl_envs.families.schema import SpecError
from metarl_envs.freezing import problems

#: Keys of prose, which has no checksum.
PROSE = ("title", "summary", "doc", "units", "variant", "same", "differs", "version", "change", "released")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return shutil.copytree(spec_directory(), tmp_path_factory.mktemp("specs") / "tasks_spec")


def numbers(text):
    """Places of the numbers of a specification that are not prose."""
    found, prose, key = [], False, ""
    place = 0
    for line in text.splitlines(keepends=True):
        if not prose and (begun := re.match(r"(\w+) = ", line)):
            key = begun[1]  # an array may go on over several lines
        if line.count('"""') % 2:
            prose = not prose
        if not prose and key not in PROSE and not line.startswith("["):
            start = line.find("=") + 1
            found += [(place + m.start(), m.group()) for m in re.finditer(r"\d", line) if m.start() >= start]
        place += len(line)
    return found


@pytest.mark.parametrize("family_id", specs.registered_ids())
def test_a_changed_digit_is_noticed(family_id, copies):
    """Every digit of a specification that is not prose, changed alone."""
    text = (copies / f"{family_id}.toml").read_text()
    specs.parse(family_id, specs.read_toml(copies / f"{family_id}.toml"), copies)
    places = numbers(text)
    assert places
    path = copies / "Changed-v0.toml"
    for place, digit in places:
        path.write_text(text[:place] + str((int(digit) + 1) % 10) + text[place + 1 :])
        try:
            family = specs.parse(family_id, specs.read_toml(path), copies)
            content = specs.read_toml(path)
        except SpecError:
            continue
        if content == specs.read_toml(copies / f"{family_id}.toml"):
            continue  # 0.50 and 0.5
        with pytest.raises(SpecError, match="is not as it was frozen"):
            tables.load(family)
        with pytest.raises(SpecError, match="is not as it was frozen"):
            problems(family)
    path.unlink()


def test_prose_may_be_improved(copies):
    content = specs.read_toml(copies / "MetaHalfCheetah-Vel-v0.toml")
    content["title"] = content["summary"] = "better"
    content["arguments"]["inertia"]["doc"] = "better"
    content["provenance"] = content["provenance"][:1]
    tables.load(specs.parse("MetaHalfCheetah-Vel-v0", content, copies))


@pytest.mark.parametrize(
    ("family_id", "kind", "name", "new"),
    [
        ("MetaHalfCheetah-VelShort-v0", "splits", "ood", "ood"),
        ("MetaHalfCheetah-Vel-v0", "arguments", "inertia", "more"),
        ("MetaHalfCheetah-Vel-v0", "subsets", "iwpa", "more"),
    ],
)
def test_what_is_added_or_removed_is_named(family_id, kind, name, new, copies):
    content = specs.read_toml(copies / f"{family_id}.toml")
    section = content[kind].pop(name)
    with pytest.raises(SpecError, match=rf"{kind}\.{name} was frozen and is missing"):
        tables.load(specs.parse(family_id, content, copies))
    content = specs.read_toml(copies / "MetaHalfCheetah-Vel-v0.toml")
    content[kind][new] = section
    with pytest.raises(SpecError, match=rf"{kind}\.{new} is not frozen yet"):
        tables.load(specs.parse("MetaHalfCheetah-Vel-v0", content, copies))


WRONG = {
    "no JSON": ("{", "cannot be read"),
    "deep": ("[" * 100_000, "cannot be read"),
    "a list": ("[]", "must be a table, got"),
    "nothing": ("{}", "tables is missing; it must be a table"),
    "a list of families": ({"tables": []}, "tables must be a table, got"),
    "another key": ({"more": {}}, "more is not a known key"),
    "a number for a family": (
        {"specs": {"MetaPoint-Goal-v0": 5}},
        "specs.MetaPoint-Goal-v0 must be a table, got 5",
    ),
    "a number for a checksum": (
        {"models": {"MetaAnt-Goal-v0": {"3.17": 5}}},
        "models.MetaAnt-Goal-v0.3.17 must be a non-empty string, got 5",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_checksums_of_a_wrong_shape(case, tmp_path):
    content, words = WRONG[case]
    if isinstance(content, dict):
        whole = json.loads((spec_directory() / "checksums.json").read_text())
        content = json.dumps(whole | content)
    (tmp_path / "checksums.json").write_text(content)
    with pytest.raises(SpecError, match=words):
        tables.checksums(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_specification_is_one_sentence(seed, copies):
    """Random bytes of random specifications: the family is as before, or there is a `SpecError`."""
    rng = np.random.default_rng(seed)
    ids = specs.registered_ids()
    path = copies / "Damaged-v0.toml"
    for _ in range(60):
        family_id = ids[rng.integers(len(ids))]
        content = bytearray((copies / f"{family_id}.toml").read_bytes())
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        try:
            family = specs.parse(family_id, specs.read_toml(path), copies)
            tables.load(family)
        except SpecError:
            continue
        sound = metarl_envs.family(family_id)
        assert family.definition == sound.definition
    path.unlink()


@pytest.mark.parametrize(
    "family_id",
    ["MetaHalfCheetah-Vel-v0", "MetaPoint-SparseGoal-v0", "MetaHopper-Params-v0", "MetaAnt-GoalAnnulus-v0"],
)
def test_a_value_of_a_wrong_kind_is_one_sentence(family_id, copies):
    """Every value of a specification, replaced by one of every kind."""
    content = specs.read_toml(copies / f"{family_id}.toml")
    for path in places(content):
        if not path:
            continue  # a TOML file is a table
        if path[:1] in (("provenance",), ("history",)) and path[1:2] not in ((), (0,)):
            continue  # rows alike
        for value in VALUES:
            try:
                family = specs.parse(family_id, replaced(content, path, value), copies)
                tables.load(family)
            except SpecError:
                pass
