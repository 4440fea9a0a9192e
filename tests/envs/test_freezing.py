"""`metarl-envs tasks freeze` and `unfreeze`: what they check, what they write, and what they refuse."""

import json

import pytest
from representatives import IDS

import metarl_envs
from metarl_envs import cli
from metarl_envs.families import models, specs, tables

pytestmark = pytest.mark.usefixtures("in_empty_folder")

NEW = "MetaAnt-New-v0"


@pytest.fixture
def run(capsys):
    """Runs a command line; returns exit status, output and error output."""

    def call(*words):
        status = cli.run(cli.app, [str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def write(spec_folder):
    """Writes the specification of `NEW`: that of another family, with replacements."""

    def call(*replacements, like="MetaAnt-Goal-v0"):
        text = (spec_folder / f"{like}.toml").read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (spec_folder / f"{NEW}.toml").write_text(text)
        specs.registered_ids.cache_clear()
        specs._family.cache_clear()

    return call


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unfreezing_undoes_freezing(run, write, spec_folder):
    write()
    before = _content(spec_folder)
    assert run("tasks", "freeze", NEW)[0] == 0
    frozen = _content(spec_folder)
    assert run("tasks", "verify", NEW) == (0, f"{NEW}: ok\n", "")
    assert run("tasks", "unfreeze", NEW) == (0, f"{NEW}: not frozen\n", "")
    assert _content(spec_folder) == before
    specs._family.cache_clear()
    status, out, _ = run("tasks", "verify", NEW)
    assert status == 1
    assert "is not frozen" in out
    assert run("tasks", "freeze", NEW)[0] == 0
    assert _content(spec_folder) == frozen


def test_unfreezing_makes_another_definition_possible(run, write):
    write()
    run("tasks", "freeze", NEW)
    write(("count = 150", "count = 7"))
    status, _, err = run("tasks", "freeze", NEW)
    assert status == 2
    assert "tasks unfreeze" in err
    run("tasks", "unfreeze", NEW)
    assert run("tasks", "freeze", NEW)[0] == 0
    assert len(metarl_envs.family(NEW).tasks("train")) == 7


def test_unfreezing_ends_what_an_interrupted_freezing_began(run, write, spec_folder):
    """The table is there, its checksum is not."""
    write()
    before = _content(spec_folder)
    run("tasks", "freeze", NEW)
    checksums = json.loads((spec_folder / "checksums.json").read_text())
    for kind in checksums:
        checksums[kind].pop(NEW)
    (spec_folder / "checksums.json").write_text(json.dumps(checksums))
    tables.checksums.cache_clear()
    assert run("tasks", "unfreeze", NEW)[0] == 0
    assert set(_content(spec_folder)) == set(before)


def test_a_released_family_stays_frozen(run, write, spec_folder):
    write(('version = "v0"', 'version = "v0"\nreleased = "0.1.0"'))
    run("tasks", "freeze", NEW)
    before = _content(spec_folder)
    status, out, err = run("tasks", "unfreeze", NEW)
    assert (status, out) == (2, "")
    assert f"{NEW} was released in 0.1.0, so it stays frozen" in err
    assert _content(spec_folder) == before


def test_the_release_of_another_version_does_not_count(write):
    write(('version = "v0"', 'version = "v1"\nreleased = "0.1.0"'))
    assert metarl_envs.family(NEW).released is None


def test_what_is_not_frozen_cannot_be_unfrozen(run, write, spec_folder):
    write()
    before = _content(spec_folder)
    status, _, err = run("tasks", "unfreeze", NEW)
    assert status == 2
    assert f"{NEW} is not frozen" in err
    assert _content(spec_folder) == before


@pytest.mark.parametrize(
    ("replacements", "said"),
    [
        ([('"goal_x", "goal_y"', '"goal_x", "goal_z"')], ("parameters.names", "'goal_x', 'goal_y'")),
        ([('objective = "goal"', 'objective = "velocity"')], ("'velocity'", "'norm'", "'control_cost'")),
        ([("frame_skip = 5", "frame_skpi = 5")], ("frame_skpi", "'frame_skip'")),
        ([("control_cost", "control_cots")], ("control_cots", "'control_cost'")),
        ([("low = [-3.0, -3.0]", "low = [-1.0, -1.0]")], ("train", "outside parameters.low")),
        ([('"philox"', '"random_state_uniform"\nseed = 1')], ("needs a 'uniform' distribution",)),
        ([("horizon = 200", "horizon = 0")], ("horizon", "at least 1")),
    ],
)
def test_nothing_is_written_of_a_family_that_is_refused(run, write, spec_folder, replacements, said):
    write(*replacements)
    before = _content(spec_folder)
    status, out, err = run("tasks", "freeze", NEW)
    assert (status, out) == (2, "")
    assert NEW in err
    for words in said:
        assert words in err
    assert _content(spec_folder) == before


def test_every_choice_of_an_argument_is_tried(run, write, spec_folder):
    """What only another choice asks for is found out before anything is written."""
    write(like="MetaAnt-LowFriction-v0")
    with (spec_folder / f"{NEW}.toml").open("a") as file:
        file.write(
            '[arguments.dynamics]\nof = "body"\ndefault = "low_friction"\n'
            'choices = ["low_friction", "crippled"]\ndoc = "none"\n'
        )
    before = _content(spec_folder)
    status, _, err = run("tasks", "freeze", NEW)
    assert status == 2
    assert "'crippled' for the body 'ant_short'" in err
    assert _content(spec_folder) == before


def test_splits_that_share_tasks_are_refused(run, write, spec_folder):
    """Tasks count as the same up to rounding, so a range that is too narrow has one."""
    write(("radius = 3.0", "radius = 1e-12"))
    before = _content(spec_folder)
    status, _, err = run("tasks", "freeze", NEW)
    assert status == 2
    assert "train and validation share" in err
    assert _content(spec_folder) == before


def test_models_are_recorded_for_each_choice_that_changes_them(run, write):
    write()
    run("tasks", "freeze", NEW)
    version = models.mujoco_minor_version()
    recorded = tables.checksums(metarl_envs.family(NEW).directory)["models"][NEW]
    assert set(recorded) == {version, f"{version} inertia=legacy"}


def test_no_shipped_family_is_released_yet():
    """The history of a family names its release when there is one; see CONTRIBUTING.md."""
    assert {i: metarl_envs.family(i).released for i in IDS} == dict.fromkeys(IDS)
