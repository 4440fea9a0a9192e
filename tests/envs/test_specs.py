"""Specifications: the shipped ones parse, and whatever is wrong with one is a `SpecError` that says where."""

import copy
import math
import re

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from representatives import KIND_IDS, ids_with

import metarl_envs
from metarl_envs import SpecError
from metarl_envs.core import Core
from metarl_envs.families import directories, registration, specs, tables
from metarl_envs.families.assembly import assemble

IDS = metarl_envs.registered_ids()
CONTENTS = {i: specs.read_toml(directories.spec_directory() / f"{i}.toml") for i in IDS}
# These hold what the author chooses; who reads them checks them.
FREE_TABLES = {"body_options", "objective_options"}
OPTIONAL = {
    "fixed_starts",
    "train_equals_test", "body_options", "objective_options", "arguments", "subsets",
    "table.seed", "table.splits",
    "splits.ood", "splits.train.distribution", "splits.test.distribution", "splits.ood.distribution",
}  # fmt: skip
# Of every argument, whatever its name.
OPTIONAL |= {f"arguments.{name}.changes_model" for c in CONTENTS.values() for name in c.get("arguments", {})}
NAMED_BY_THEIR_AUTHOR = {"arguments", "subsets"}
OTHERS = (
    None,
    True,
    False,
    -3,
    0,
    1,
    2.5,
    "",
    " ",
    "nonsense",
    [],
    ["x"],
    [1.0],
    [[1.0]],
    [{}],
    {},
    {"a": 1},
)


def _places(value, path=()):
    """Every (path, value) below the top of a specification."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key), inner
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))


def _parent(content, path):
    for key in path[:-1]:
        content = content[key]
    return content


def _dotted(path):
    return ".".join(map(str, path))


@st.composite
def _specified_places(draw, keys_only=False):
    """A family's id and the path of a place in its specification."""
    family_id = draw(st.sampled_from(IDS))
    places = [
        path
        for path, _ in _places(CONTENTS[family_id])
        if not (keys_only and (isinstance(path[-1], int) or path[0] in FREE_TABLES))
    ]
    return family_id, draw(st.sampled_from(places))


def _complaint(family_id, content):
    """What is said against a specification, or None: a `SpecError` is the only exception there may be."""
    try:
        family = specs.parse(family_id, content)
    except SpecError as error:
        return str(error)
    assert isinstance(family, metarl_envs.Family)
    return None


MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("family_id", IDS)
def test_every_shipped_specification_parses(family_id):
    family = specs.parse(family_id, CONTENTS[family_id])
    assert family.id == family_id
    assert set(family.splits) >= {"train", "test"}
    assert ("validation" in family.splits) != family.train_equals_test
    assert family.horizon == CONTENTS[family_id]["horizon"]
    for split in family.splits.values():
        assert len(family.tasks(split.name)) == split.count
    assert family.task_space.shape == (len(family.parameter_names),)
    assert family.task_space.dtype == np.float64
    core = Core(family, 1, tasks=[family.task("train", 0)], observe_task=False, num_threads=1, arguments={})
    core.close()


def test_one_file_is_one_id():
    files = sorted(p.stem for p in directories.spec_directory().glob("*.toml"))
    assert tuple(files) == IDS
    assert sorted(p.stem for p in (directories.spec_directory() / "tables").glob("*.json")) == files
    assert all(i.split("-v")[-1].isdigit() for i in IDS)


@MANY
@given(place=_specified_places(), other=st.sampled_from(OTHERS) | st.floats() | st.text(max_size=3))
def test_any_change_of_a_value_is_understood_or_refused(place, other):
    """Never another exception, whatever a place holds."""
    family_id, path = place
    content = copy.deepcopy(CONTENTS[family_id])
    _parent(content, path)[path[-1]] = other
    complaint = _complaint(family_id, content)
    assert complaint is None or f"{family_id}.toml" in complaint


@MANY
@given(place=_specified_places())
def test_any_removal_is_understood_or_refused(place):
    family_id, path = place
    content = copy.deepcopy(CONTENTS[family_id])
    del _parent(content, path)[path[-1]]
    complaint = _complaint(family_id, content)
    assert complaint is None or f"{family_id}.toml" in complaint


@MANY
@given(place=_specified_places(keys_only=True))
def test_a_missing_key_is_named(place):
    family_id, path = place
    content = copy.deepcopy(CONTENTS[family_id])
    del _parent(content, path)[path[-1]]
    if _dotted(path) in OPTIONAL or (len(path) == 2 and path[0] in NAMED_BY_THEIR_AUTHOR):
        # What may be left out may still be what another key asks for, and then that is said.
        complaint = _complaint(family_id, content)
        assert complaint is None or _dotted(path) in complaint
        return
    with pytest.raises(SpecError) as caught:
        specs.parse(family_id, content)
    assert f"{family_id}.toml" in str(caught.value)
    assert str(path[-1]) in str(caught.value)
    # Where the discriminating key is gone the message says which values there are instead.
    assert "missing" in str(caught.value) or "must" in str(caught.value)


@MANY
@given(place=_specified_places(keys_only=True), letter=st.sampled_from("xyz_"))
def test_a_misspelt_key_is_named(place, letter):
    """A renamed key is both unknown and missing; in no case does it pass unnoticed."""
    family_id, path = place
    content = copy.deepcopy(CONTENTS[family_id])
    parent = _parent(content, path)
    parent[f"{path[-1]}{letter}"] = parent.pop(path[-1])
    if len(path) == 2 and path[0] in NAMED_BY_THEIR_AUTHOR:
        return  # the author's own name
    with pytest.raises(SpecError) as caught:
        specs.parse(family_id, content)
    text = str(caught.value)
    assert f"{family_id}.toml" in text
    # "distribution.kind" renamed is a distribution without a kind.
    assert f"{path[-1]}{letter}" in text or path[-1] == "kind"
    assert "allowed" in text or "must be" in text


def _kinds(value):
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


@MANY
@given(place=_specified_places(keys_only=True), other=st.sampled_from(OTHERS))
def test_a_value_of_another_type_is_named(place, other):
    family_id, path = place
    content = copy.deepcopy(CONTENTS[family_id])
    parent = _parent(content, path)
    if _kinds(parent[path[-1]]) == _kinds(other) or path[-1] in ("default", "choices"):
        return
    parent[path[-1]] = other
    with pytest.raises(SpecError) as caught:
        specs.parse(family_id, content)
    text = str(caught.value)
    assert f"{family_id}.toml" in text
    assert str(path[-1]) in text
    assert "must" in text


BAD_VALUES = {
    "horizon": (0, -5, 1.5, True, "200"),
    "parameters.names": ([], ["a", 3], "goal_x", ["a", "b", "c", "d", "e"]),
    "parameters.low": (["0"], [True], [math.nan], [math.inf], [9.0, 9.0], [9.0]),
    "table.rule": ("magic", ["philox"], 3),
    "splits.train.count": (0, -1, 2.0, True),
    "distribution.kind": ("normal", ["uniform"], {"uniform": 1}, 3),
    "provenance": ([], {}, [{"variant": "x", "same": "y"}], ["x"]),
    "history": ([], [{"version": "v0"}]),
    "arguments": (3, [], {"x": 3}, {"x": {"of": "body"}}),
    "title": ("", "   ", 3),
}


@pytest.mark.parametrize("key", BAD_VALUES)
@pytest.mark.parametrize("family_id", ids_with(KIND_IDS))
def test_values_that_are_not_allowed(family_id, key):
    path = key.split(".")
    for value in BAD_VALUES[key]:
        content = copy.deepcopy(CONTENTS[family_id])
        _parent(content, path)[path[-1]] = value
        with pytest.raises(SpecError) as caught:
            specs.parse(family_id, content)
        assert f"{family_id}.toml" in str(caught.value)
        assert path[0] in str(caught.value)


BAD_DISTRIBUTIONS = (
    {"kind": "uniform", "low": [0.0, 0.0], "high": [1.0]},
    {"kind": "uniform", "low": [0.0], "high": [1.0]},
    {"kind": "uniform", "low": [1.0, 0.0], "high": [1.0, 1.0]},
    {"kind": "uniform", "low": [2.0, 0.0], "high": [1.0, 1.0]},
    {"kind": "uniform", "low": [math.nan, 0.0], "high": [1.0, 1.0]},
    {"kind": "uniform", "low": [0.0, 0.0], "high": [math.inf, 1.0]},
    {"kind": "disc", "radius": 0.0},
    {"kind": "disc", "radius": -1.0},
    {"kind": "disc", "radius": math.nan},
    {"kind": "disc", "radius": math.inf},
    {"kind": "disc"},
    {"kind": "disc", "radius": 1.0, "low": 0.0},
    {"kind": "arc", "radius": 1.0, "low": 0.0},
    {"kind": "arc", "radius": 1.0, "low": 1.0, "high": 1.0},
    {"kind": "arc", "radius": 1.0, "low": 0.0, "high": 7.0},
    {"kind": "arc", "radius": 1.0, "low": math.nan, "high": 1.0},
    {"kind": "choice", "values": []},
    {"kind": "choice", "values": [[0.0]]},
    {"kind": "choice", "values": [[0.0, 0.0], [0.0, 0.0]]},
    {"kind": "choice", "values": [["a", "b"]]},
    {"kind": "choice", "values": [[0.0, {}]]},
    {"kind": "choice", "values": [0.0, 1.0]},
    {"kind": "choice", "values": [[math.nan, 0.0]]},
    {},
)


@pytest.mark.parametrize("number", range(len(BAD_DISTRIBUTIONS)))
def test_bad_distributions(number):
    content = copy.deepcopy(CONTENTS["MetaPoint-Goal-v0"])
    for place in (content, content["splits"]["test"]):
        changed = copy.deepcopy(content)
        if place is content:
            changed["distribution"] = BAD_DISTRIBUTIONS[number]
            where = "distribution"
        else:
            changed["splits"]["test"]["distribution"] = BAD_DISTRIBUTIONS[number]
            where = "splits.test.distribution"
        with pytest.raises(SpecError) as caught:
            specs.parse("Example-v0", changed)
        assert "Example-v0.toml" in str(caught.value)
        assert where in str(caught.value)


def test_a_box_must_have_its_low_below_its_high():
    content = copy.deepcopy(CONTENTS["MetaPoint-Goal-v0"])
    content["parameters"]["low"], content["parameters"]["high"] = [1.0, 1.0], [-1.0, -1.0]
    with pytest.raises(SpecError, match=r"MetaPoint-Goal-v0\.toml.*parameters"):
        specs.parse("MetaPoint-Goal-v0", content)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train_equals_test", True, "train_equals_test"),
        ("table", {"rule": "random_state_uniform"}, "seed"),
        ("table", {"rule": "philox", "seed": 3}, "seed"),
        ("table", {"rule": "members"}, "members"),
        (
            "table",
            {"rule": "random_state_uniform", "seed": 1, "splits": ["train", "validation"]},
            "table.splits",
        ),
        ("splits", {"train": {"count": 8}, "test": {"count": 2}}, r"splits\.validation is missing"),
        (
            "splits",
            {"train": {"count": 8}, "validation": {"count": 2, "distribution": {}}, "test": {"count": 2}},
            r"splits\.validation\.distribution is not a known key",
        ),
    ],
)
def test_keys_that_contradict_each_other(key, value, words):
    content = copy.deepcopy(CONTENTS["MetaPoint-Goal-v0"])
    content[key] = value
    with pytest.raises(SpecError, match=words):
        specs.parse("MetaPoint-Goal-v0", content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "ood"}, "subsets.crl.split must be one of 'train', 'validation', 'test'"),
        ({"count": 101}, "subsets.crl.count must be at most 100, the size of train"),
    ],
)
def test_a_subset_is_part_of_a_split(change, words):
    content = specs.read_toml(directories.spec_directory() / "MetaHumanoid-Dir2D-v0.toml")
    content["subsets"]["crl"] |= change
    with pytest.raises(SpecError, match=re.escape(words)):
        specs.parse("MetaHumanoid-Dir2D-v0", content)


def test_an_objectives_argument_changes_no_model():
    content = copy.deepcopy(CONTENTS["MetaPoint-SparseGoal-v0"])
    content["arguments"]["reward"]["changes_model"] = True
    with pytest.raises(SpecError, match=r"arguments\.reward\.changes_model must be left out"):
        specs.parse("MetaPoint-SparseGoal-v0", content)


def test_a_family_of_members_declares_no_validation_tasks():
    content = copy.deepcopy(CONTENTS["MetaAnt-Dir-v0"])
    content["splits"]["validation"] = {"count": 2}
    with pytest.raises(SpecError, match=r"splits\.validation must be left out.*members"):
        specs.parse("MetaAnt-Dir-v0", content)


@pytest.mark.parametrize(
    ("rule", "distribution"),
    [
        ("random_state_uniform", {"kind": "disc", "radius": 1.0}),
        ("random_state_arc_grid", {"kind": "disc", "radius": 1.0}),
    ],
)
def test_a_rule_that_does_not_fit_its_distribution(rule, distribution):
    content = copy.deepcopy(CONTENTS["MetaPoint-Goal-v0"])
    content["distribution"], content["table"] = distribution, {"rule": rule, "seed": 1}
    with pytest.raises(SpecError, match="distribution"):
        tables.derive(specs.parse("MetaPoint-Goal-v0", content))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("body", "snake", r"half_cheetah.*snake"),
        ("objective", "win", r"velocity.*win"),
        ("body_options", {"frame_skpi": 5}, r"frame_skpi"),
        ("body_options", {"frame_skip": []}, r"'frame_skip' must be an integer of at least 1, got \[\]"),
        ("body_options", {"frame_skip": 0}, r"'frame_skip' must be an integer of at least 1, got 0"),
        ("objective_options", {"control_cots": 0.1}, r"control_cots"),
        ("objective_options", {"control_cost": []}, r"'control_cost' must be a finite number, got \[\]"),
    ],
)
def test_what_body_and_objective_do_not_have_is_named(key, value, words):
    """A misspelt body, objective or option, or a bad value of one."""
    content = copy.deepcopy(CONTENTS["MetaHalfCheetah-Vel-v0"])
    content[key] = value
    with pytest.raises(SpecError, match=words):
        assemble(specs.parse("MetaHalfCheetah-Vel-v0", content), 1, 1, {})


@pytest.mark.parametrize("content", [b"title = ", b"title = 'a'\ntitle = 'b'\n", b"\xff\xfe\x00", b"a\n[b\n"])
def test_a_file_that_is_no_toml(spec_folder, content):
    (spec_folder / "Broken-v0.toml").write_bytes(content)
    with pytest.raises(SpecError, match=r"Broken-v0\.toml"):
        metarl_envs.family("Broken-v0")


@pytest.mark.parametrize("line", ["", "horizon = 'long'", "horizon = 0", "horizon = true"])
def test_a_bad_horizon_is_named_although_it_is_read_at_import(spec_folder, line):
    """Registration reads the time limit alone; whoever stumbles over it, the message leads to the file."""
    text = (spec_folder / "MetaPoint-Goal-v0.toml").read_text()
    (spec_folder / "Broken-v0.toml").write_text(text.replace("horizon = 20", line))

    def use():
        registration.register_families()
        gymnasium.make("Broken-v0")

    try:
        with pytest.raises(SpecError, match=r"Broken-v0\.toml.*horizon"):
            use()
    finally:
        gymnasium.registry.pop("Broken-v0", None)


def test_a_new_file_is_a_new_family(spec_folder):
    """A variation of an existing body takes a specification and nothing else."""
    text = (spec_folder / "MetaPoint-Goal-v0.toml").read_text()
    (spec_folder / "MetaPoint-Far-v0.toml").write_text(
        text.replace("horizon = 20", "horizon = 7").replace("title = ", "title = 'Far' #")
    )
    try:
        registration.register_families()
        family = metarl_envs.family("MetaPoint-Far-v0")
        assert family.title == "Far"
        tables.freeze(family)
        env = gymnasium.make("MetaPoint-Far-v0", task=3)
        env.reset(seed=0)
        ends = [env.step(np.zeros(2))[3] for _ in range(7)]
        assert ends == [False] * 6 + [True]
    finally:
        gymnasium.registry.pop("MetaPoint-Far-v0", None)


def test_registering_twice_changes_nothing():
    before = {i: gymnasium.registry[i] for i in IDS}
    registration.register_families()
    assert {i: gymnasium.registry[i] for i in IDS} == before


@pytest.mark.parametrize("name", ["__version__", "registered_ids", "family", "Task", "Family", "SpecError"])
def test_public_names(name):
    assert name in metarl_envs.__all__
    assert hasattr(metarl_envs, name)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Metaenv'"):
        _ = metarl_envs.Metaenv
    assert metarl_envs.MetaEnv.__name__ == "MetaEnv"
    assert metarl_envs.MetaVectorEnv.__name__ == "MetaVectorEnv"
