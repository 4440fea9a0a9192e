"""The command line `metarl-envs`: what it prints and writes, and what it says to mistakes."""

import csv
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from representatives import ENGINE_IDS, IDS, KIND_IDS, ids_with

import metarl_envs
from metarl_envs import cli
from metarl_envs.families import directories, models, specs, tables
from metarl_envs.pages.frames import write_frames
from metarl_envs.pages.page import page

pytestmark = pytest.mark.usefixtures("in_empty_folder")

each_id = pytest.mark.parametrize("family_id", IDS)
each_kind = pytest.mark.parametrize("family_id", ids_with(KIND_IDS))
each_engine = pytest.mark.parametrize("family_id", ids_with(ENGINE_IDS))
each_split = pytest.mark.parametrize(
    ("family_id", "split"), [(i, split) for i in IDS for split in metarl_envs.family(i).splits]
)


@pytest.fixture
def run(capsys):
    """Runs a command line; returns exit status, output and error output."""

    def call(*words):
        status = cli.run(cli.app, [str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def _rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_list(run):
    status, out, err = run("list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == list(IDS)
    for line, family in zip(lines, map(metarl_envs.family, IDS), strict=True):
        for word in (
            family.title,
            str(family.horizon),
            *(f"{s.count} {s.name}" for s in family.splits.values()),
        ):
            assert word in line


@pytest.mark.long
@each_id
def test_describe(run, family_id, tmp_path):
    expected = page(metarl_envs.family(family_id))
    assert run("describe", family_id) == (0, expected, "")
    assert run("describe", family_id, "--out", tmp_path / "new" / "page.md") == (0, "", "")
    assert (tmp_path / "new" / "page.md").read_text() == expected
    for heading in ("Actions", "Observations", "Reward", "Tasks", "Start", "End", "Info", "Arguments"):
        assert f"\n## {heading}\n" in expected


@each_id
def test_pages_have_sound_tables(family_id):
    """Every row of every table has the cells of its head, and the element ranges add up to the spaces."""
    text = page(metarl_envs.family(family_id))
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1, table
        assert all(cell.strip() for row in rows for cell in row), table
    env = metarl_envs.MetaEnv(family_id)
    for heading, space in (("Actions", env.action_space), ("Observations", env.observation_space)):
        section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        spans = re.findall(r"^\| (\d+)(?: to (\d+))? \|", section, re.MULTILINE)
        elements = [i for a, b in spans for i in range(int(a), int(b or a) + 1)]
        assert elements == list(range(space.shape[0]))


@pytest.mark.long
def test_verify_everything(run):
    status, out, err = run("tasks", "verify")
    assert (status, err) == (0, "")
    assert out.splitlines() == [f"{i}: ok" for i in IDS]


@each_kind
def test_verify_one(run, family_id):
    assert run("tasks", "verify", family_id) == (0, f"{family_id}: ok\n", "")


@pytest.mark.long
@each_kind
def test_verify_finds_a_changed_digit(run, spec_folder, family_id):
    def nudge(content):
        content["test"][0][0] = float(np.nextafter(content["test"][0][0], 9.0))

    _rewrite(spec_folder / "tables" / f"{family_id}.json", nudge)
    status, out, _ = run("tasks", "verify", family_id)
    assert status == 1
    assert out.startswith(f"{family_id}: ")
    assert "checksum" in out


@pytest.mark.long
def test_verify_names_the_one_family_with_a_changed_digit(run, spec_folder):
    def nudge(content):
        content["test"][0][0] = float(np.nextafter(content["test"][0][0], 9.0))

    _rewrite(spec_folder / "tables" / "MetaAnt-Dir-v0.json", nudge)
    status, out, _ = run("tasks", "verify", *KIND_IDS)
    assert status == 1
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert "checksum" in lines.pop("MetaAnt-Dir-v0")
    assert set(lines) == set(KIND_IDS) - {"MetaAnt-Dir-v0"}
    assert set(lines.values()) == {"ok"}


def test_verify_finds_a_table_that_was_frozen_wrongly(run, spec_folder):
    """The checksum is right, but the table is not the one derived from the specification."""
    family_id = "MetaPoint-Goal-v0"

    def change(content):
        content["test"][0] = [7.0, 7.0]
        content["test"][1] = content["train"][0]

    path = spec_folder / "tables" / f"{family_id}.json"
    _rewrite(path, change)
    rows = np.array(json.loads(path.read_text())["test"])
    tables.record_checksums(
        metarl_envs.family(family_id), "tables", {"test": tables.checksum(family_id, "test", rows)}
    )
    status, out, _ = run("tasks", "verify", family_id)
    assert status == 1
    assert "not the one derived from the specification" in out
    assert "outside its distribution" in out
    assert "train and test share 1" in out


@pytest.mark.filterwarnings("ignore:the compiled model")
def test_verify_finds_another_model(run, spec_folder):
    family_id = "MetaAnt-Goal-v0"
    family = metarl_envs.family(family_id)
    tables.record_checksums(family, "models", {models.mujoco_minor_version(): "0" * 64})
    status, out, _ = run("tasks", "verify", family_id)
    assert status == 1
    assert "model" in out


@pytest.mark.filterwarnings("ignore:the compiled model")
def test_verify_finds_another_model_of_an_argument(run, spec_folder):
    key = f"{models.mujoco_minor_version()} inertia=legacy"
    tables.record_checksums(metarl_envs.family("MetaAnt-Goal-v0"), "models", {key: "0" * 64})
    status, out, _ = run("tasks", "verify", "MetaAnt-Goal-v0")
    assert status == 1
    assert f"the compiled model is not the one recorded for MuJoCo {key}" in out


def test_verify_names_a_family_that_does_not_exist(run):
    status, out, _ = run("tasks", "verify", "MetaAnt-Gaol-v0", IDS[-1])
    assert status == 1
    assert "did you mean 'MetaAnt-Goal-v0'" in out.splitlines()[0]
    assert out.splitlines()[1] == f"{IDS[-1]}: ok"


@each_split
def test_export_json(run, family_id, split, tmp_path):
    status, out, err = run("tasks", "export", family_id, "--split", split, "--format", "json")
    assert (status, err) == (0, "")
    family, content = metarl_envs.family(family_id), json.loads(out)
    assert content["family"] == family_id
    assert content["split"] == split
    assert content["parameters"] == list(family.parameter_names)
    assert content["units"] == list(family.parameter_units)
    assert content["sha256"] == tables.checksums(directories.spec_directory())["tables"][family_id][split]
    assert [tuple(row) for row in content["tasks"]] == [t.parameters for t in family.tasks(split)]
    rows = np.array(content["tasks"])
    assert tables.checksum(family_id, split, rows) == content["sha256"]
    assert run("tasks", "export", family_id, "--split", split, "--out", tmp_path / "t.json") == (0, "", "")
    assert (tmp_path / "t.json").read_text() == out


@each_split
def test_export_csv(run, family_id, split, tmp_path):
    path = tmp_path / "t.csv"
    assert run("tasks", "export", family_id, "--split", split, "--format", "csv", "--out", path)[0] == 0
    family = metarl_envs.family(family_id)
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["index", *family.parameter_names]
    assert [int(row[0]) for row in rows] == [t.index for t in family.tasks(split)]
    assert [tuple(map(float, row[1:])) for row in rows] == [t.parameters for t in family.tasks(split)]


def test_families_of_members_have_no_validation_tasks_to_export(run):
    status, out, err = run("tasks", "export", "MetaAnt-Dir-v0", "--split", "validation")
    assert (status, out) == (2, "")
    assert "MetaAnt-Dir-v0 has no validation tasks" in err


def test_export_defaults_to_the_test_split_in_json(run):
    content = json.loads(run("tasks", "export", IDS[0])[1])
    assert content["split"] == "test"


def test_freeze_a_new_version(run, spec_folder):
    text = (spec_folder / "MetaAnt-Goal-v0.toml").read_text()
    (spec_folder / "MetaAnt-Goal-v1.toml").write_text(text)
    specs.registered_ids.cache_clear()
    assert run("tasks", "verify", "MetaAnt-Goal-v1")[0] == 1
    specs._family.cache_clear()
    status, out, _ = run("tasks", "freeze", "MetaAnt-Goal-v1")
    assert status == 0
    assert out.startswith(
        "MetaAnt-Goal-v1: frozen simulation, tasks, splits.train, splits.validation, splits.test"
    )
    assert "MetaAnt-Goal-v1" in specs.registered_ids()
    both = ("MetaAnt-Goal-v0", "MetaAnt-Goal-v1")
    assert run("tasks", "verify", *both) == (0, "".join(f"{i}: ok\n" for i in both), "")
    old, new = (metarl_envs.family(f"MetaAnt-Goal-v{i}") for i in (0, 1))
    assert not {t.parameters for t in old.tasks()} & {t.parameters for t in new.tasks()}
    recorded = tables.checksums(directories.spec_directory())["models"]
    version = models.mujoco_minor_version()
    keys = (version, f"{version} inertia=legacy")
    assert recorded["MetaAnt-Goal-v1"] == {key: recorded["MetaAnt-Goal-v0"][key] for key in keys}
    status, _, err = run("tasks", "freeze", "MetaAnt-Goal-v1")
    assert status == 2
    assert "new version" in err


@pytest.mark.long
@each_engine
def test_render(run, family_id, tmp_path):
    path = tmp_path / "picture.png"
    assert run("render", family_id, "--out", path, "--steps", 3) == (0, f"{path}\n", "")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        assert image.size == (480, 480)
        first = np.asarray(image)
    assert first.std() > 1
    run("render", family_id, "--out", path, "--steps", 3)
    # The software renderer may differ in a few pixels between contexts.
    assert (np.asarray(Image.open(path)) != first).any(axis=-1).mean() < 1e-3
    run("render", family_id, "--out", path, "--steps", 3, "--task", 1)
    assert (np.asarray(Image.open(path)) != first).any()


def test_render_writes_into_the_working_directory_by_default(run, tmp_path):
    family_id = "MetaPoint-Goal-v0"
    assert run("render", family_id) == (0, f"{family_id}.png\n", "")
    assert [p.name for p in tmp_path.iterdir()] == [f"{family_id}.png"]


@pytest.mark.long
@each_engine
def test_render_a_clip(run, family_id, tmp_path):
    path = tmp_path / "clip.gif"
    assert run("render", family_id, "--out", path, "--steps", 4) == (0, f"{path}\n", "")
    fps = metarl_envs.MetaEnv(family_id).metadata["render_fps"]
    with Image.open(path) as clip:
        assert clip.format == "GIF"
        assert clip.size == (480, 480)
        # The start and four steps.
        assert clip.n_frames in range(2, 6)  # fewer where an episode ends early
        # GIF counts in hundredths of a second, and viewers slow down below two of them.
        assert clip.info["duration"] == pytest.approx(max(20, 1000 / fps), abs=10)
        shown = []
        for i in range(clip.n_frames):
            clip.seek(i)
            shown.append(np.asarray(clip.convert("RGB")))
    assert all((a != b).any() for a, b in itertools.pairwise(shown))


@pytest.mark.long
def test_render_a_film(run, tmp_path):
    path = tmp_path / "clip.mp4"
    assert run("render", "MetaAnt-Goal-v0", "--out", path, "--steps", 6, "--task", 3) == (0, f"{path}\n", "")
    film = imageio_ffmpeg.read_frames(str(path))
    facts = next(film)
    frames = [np.frombuffer(frame, np.uint8) for frame in film]
    assert facts["size"] == (480, 480)
    assert facts["fps"] == 20
    assert len(frames) == 7  # the start and six steps
    assert frames[0].std() > 1
    assert (frames[0] != frames[-1]).any()
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_clip_shows_a_whole_episode_by_default(run, tmp_path):
    path = tmp_path / "clip.gif"
    assert run("render", "MetaPoint-Goal-v0", "--out", path)[0] == 0
    with Image.open(path) as clip:
        assert clip.n_frames == metarl_envs.family("MetaPoint-Goal-v0").horizon + 1


def test_films_without_ffmpeg_say_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    status, out, err = run("render", "MetaPoint-Goal-v0", "--out", "x.mp4", "--steps", 1)
    assert (status, out) == (2, "")
    assert "metarl-envs[video]" in err
    assert list(tmp_path.iterdir()) == []


def test_tasks_plot(run, tmp_path):
    assert run("tasks", "plot", "MetaAnt-Goal-v0") == (0, "MetaAnt-Goal-v0-tasks.png\n", "")
    with Image.open(tmp_path / "MetaAnt-Goal-v0-tasks.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image).std() > 1


def test_pictures_without_pillow_say_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    status, out, err = run("render", "MetaPoint-Goal-v0")
    assert (status, out) == (2, "")
    assert "metarl-envs[plot]" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pictures_survive_being_written(data, tmp_path_factory):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    images = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "x.png"
    write_frames(path, list(images), 20)
    with Image.open(path) as read:
        np.testing.assert_array_equal(np.asarray(read), images[-1])
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]


MISTAKES = [
    (("describe", "MetaAnt-Gaol-v0"), ("MetaAnt-Gaol-v0", "did you mean 'MetaAnt-Goal-v0'")),
    (("describe", "xyzzy"), ("xyzzy", *IDS)),
    (("render", "metapoint-goal-v0"), ("did you mean 'MetaPoint-Goal-v0'",)),
    (("render", "MetaPoint-Goal-v0", "--task", "20"), ("0 to 19",)),
    (("render", "MetaPoint-Goal-v0", "--task", "-1"), ("0 to 19",)),
    (("render", "MetaPoint-Goal-v0", "--split", "tset"), ("'train'", "'test'", "did you mean")),
    (("render", "MetaPoint-Goal-v0", "--task", "one"), ("--task", "integer")),
    (("render", "MetaPoint-Goal-v0", "--seed", "-1"), ("seed",)),
    (("render", "MetaPoint-Goal-v0", "--steps", "-1"), ("steps",)),
    (("render", "MetaPoint-Goal-v0", "--out", "x.jpg"), (".png", ".gif", ".mp4", "x.jpg")),
    (("tasks", "plot", "MetaPoint-Goal-v0", "--out", "x.jpg"), (".png", "x.jpg")),
    (("tasks", "export", "MetaPoint-Goal-v0", "--split", "ood"), ("'train'", "'test'")),
    (("tasks", "export", "MetaPoint-Goal-v0", "--format", "xml"), ("json", "csv")),
    (("tasks", "freeze", "MetaPoint-Goal-v0"), ("new version",)),
    (("tasks", "export", "nope"), ("nope",)),
    (("tasks", "nope"), ("nope",)),
    (("describ", "MetaPoint-Goal-v0"), ("describ",)),
    (("describe",), ("ID",)),
    (("describe", "MetaPoint-Goal-v0", "--uot", "x"), ("--uot",)),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes_end_in_a_sentence(run, words, said, tmp_path):
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    for word in said:
        assert word.lower() in err.lower()
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_ends_in_a_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run("describe", IDS[0], "--out", tmp_path / "file" / "page.md")
    assert status == 2
    assert err.startswith("error: ")


def test_no_arguments_show_the_help(run):
    for words in ((), ("tasks",), ("--help",), ("tasks", "--help"), ("render", "--help")):
        _, out, err = run(*words)
        assert "Usage" in out + err
    assert run("--help")[0] == 0


def _program(*words):
    program = Path(sys.executable).parent / "metarl-envs"
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=120)


@pytest.mark.process
def test_the_installed_program():
    done = _program("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(IDS)
    done = _program("describe", "MetaAnt-Gaol-v0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    done = _program("tasks", "verify", "nope")
    assert done.returncode == 1
    done = _program("render", "MetaHalfCheetah-Vel-v0", "--steps", "2", "--out", "cheetah.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("cheetah.png").stat().st_size > 1000
