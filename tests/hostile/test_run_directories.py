"""Run directories that others have changed, damaged, linked, filled or hold."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_run import ENV, OVERRIDES, STEPS, assert_same_outcome, tiny

from metarl_agents import load_agent, resume
from metarl_agents.common.config import ConfigError
from metarl_agents.run.checkpoint import CheckpointError, checkpoints
from metarl_agents.run.directory import RunError, read_description, read_entries, write_description
from metarl_agents.run.logger import DamagedLinesError

pytestmark = pytest.mark.long
RESULTS = Path(__file__).resolve().parents[2] / "results"
#: What a user may see, whatever has happened to a run.
CLEAR = (RunError, CheckpointError, ConfigError, DamagedLinesError)


@pytest.fixture
def cut(interrupted, tmp_path):
    return Path(shutil.copytree(interrupted, tmp_path / "cut"))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


def test_only_checkpoints_of_the_run_are_removed(cut, whole):
    folder = cut / "checkpoints"
    for name in ("00000004-copy", "mine", "123", ".hidden"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("mine")
    (folder / "note.txt").write_text("mine")
    elsewhere = cut.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    (folder / "00000001").symlink_to(elsewhere)
    (folder / ".00000002.writing").mkdir()
    assert resume(cut, progress=False).finished
    for name in ("00000004-copy", "mine", "123", ".hidden"):
        assert (folder / name / "file").read_text() == "mine"
    assert (folder / "note.txt").exists()
    assert (elsewhere / "file").exists()
    assert not (folder / ".00000002.writing").exists()
    assert [p.name for p in checkpoints(folder)] == ["00000004", "00000006"]
    assert_same_outcome(cut, whole)


def test_checkpoints_that_are_a_link_are_refused(cut):
    elsewhere = cut.parent / "elsewhere"
    shutil.move(cut / "checkpoints", elsewhere)
    (cut / "checkpoints").symlink_to(elsewhere)
    for use in (lambda: resume(cut, progress=False), lambda: load_agent(cut)):
        with pytest.raises((CheckpointError, RunError), match="is a link"):
            use()
    assert len(list(elsewhere.iterdir())) == 2


def test_a_changed_byte_anywhere_in_a_checkpoint_is_refused_and_the_one_before_offered(cut, whole):
    newest = cut / "checkpoints/00000004"
    g = np.random.default_rng(0)
    for path in sorted(newest.iterdir()):
        original = path.read_bytes()
        positions = {0, 1, len(original) - 1, *g.integers(len(original), size=12).tolist()}
        for position in positions:
            flip(path, position)
            with pytest.raises(CheckpointError, match=r"--checkpoint 3$") as caught:
                resume(cut, progress=False)
            assert "00000004" in str(caught.value)
            path.write_bytes(original)
        path.write_bytes(original[:-1])
        with pytest.raises(CheckpointError, match=r"--checkpoint 3$"):
            resume(cut, progress=False)
        path.write_bytes(original)
    flip(newest / "weights.safetensors", 1000)
    assert resume(cut, progress=False, checkpoint=3).finished
    assert_same_outcome(cut, whole)
    assert (cut / "checkpoints/00000004.aside").is_dir()


def test_an_older_checkpoint_that_is_not_there_or_damaged_is_refused(cut):
    with pytest.raises(CheckpointError, match="no checkpoint of iteration 2; it has: 3, 4"):
        resume(cut, progress=False, checkpoint=2)
    flip(cut / "checkpoints/00000003/state.json", 5)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        resume(cut, progress=False, checkpoint=3)
    assert len(checkpoints(cut / "checkpoints")) == 2


def test_lines_of_metrics_are_what_was_written(cut, whole, capsys):
    metrics = cut / "metrics.jsonl"
    original = metrics.read_bytes()
    for position in (0, 10, len(original) // 2, len(original) - 2):
        flip(metrics, position)
        with pytest.raises(DamagedLinesError, match=r"metrics\.jsonl"):
            resume(cut, progress=False)
        metrics.write_bytes(original)
    metrics.write_bytes(original.splitlines(keepends=True)[0])
    with pytest.raises(DamagedLinesError, match="has 1 lines, but the checkpoint counts 4"):
        resume(cut, progress=False)
    # What a crash leaves: a whole line and a part of one after the checkpoint.
    metrics.write_bytes(original + original.splitlines(keepends=True)[-1] + b'{"iteration": 6, "env')
    assert resume(cut).finished
    assert "cut the unfinished last line (21 bytes)" in capsys.readouterr().err
    assert_same_outcome(cut, whole)


def test_other_versions_are_noticed(cut, capsys):
    path = cut / "versions.json"
    original = path.read_text()
    for text in ("", "[]", "{}", '{"packages": 3}', original[:50]):
        path.write_text(text)
        with pytest.raises(RunError, match=r"versions\.json cannot be read"):
            resume(cut, progress=False)
    path.unlink()
    with pytest.raises(RunError, match=r"versions\.json"):
        resume(cut, progress=False)
    values = json.loads(original)
    values["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(values))
    assert resume(cut).finished
    assert "torch 1.0 -> " in capsys.readouterr().err


@pytest.mark.process
def test_one_process_holds_a_run(cut, whole):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom metarl_agents.run.lock import held_run\n"
        f"with held_run(Path({str(cut)!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"in use by process {process.pid} on .* since"):
        resume(cut, progress=False)
    before = (cut / "metrics.jsonl").read_bytes()
    process.kill()
    process.wait()
    # A dead process holds nothing.
    assert (cut / "metrics.jsonl").read_bytes() == before
    assert resume(cut, progress=False).finished
    assert_same_outcome(cut, whole)


@pytest.mark.process
def test_of_two_that_resume_one_is_told(cut, whole):
    code = f"from metarl_agents import resume\nresume({str(cut)!r}, progress=False)"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    # The second one may also find the run finished, if it starts late.
    assert codes in ([0, 1], [0, 0])
    if codes == [0, 1]:
        assert any("is in use by process" in text for text in said)
    assert_same_outcome(cut, whole)


@pytest.mark.process
def test_without_space_the_run_says_so_and_can_be_continued(tmp_path, whole):
    run = tmp_path / "run"
    code = (
        f"from metarl_agents.cli import main; import sys; sys.argv[1:] = {['train', 'pearl', ENV]!r}; main()"
    )
    options = [part for text in OVERRIDES["pearl"] for part in ("--set", text)]
    code = code.replace(
        repr(["train", "pearl", ENV]),
        repr(["train", "pearl", ENV, "--out", str(run), "--seed", "7", "--steps", str(STEPS), *options]),
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert "cannot be written" in line
    assert "continue with metarl resume" in line
    assert "Traceback" not in done.stderr
    assert resume(run, progress=False).finished
    assert_same_outcome(run, whole)


def test_what_a_failed_start_leaves_is_not_in_the_way(tmp_path, whole):
    (tmp_path / "run").mkdir()
    for name in ("versions.json", ".lock"):
        (tmp_path / "run" / name).write_text("{")
    assert tiny(tmp_path / "run").finished
    assert_same_outcome(tmp_path / "run", whole)


def damaged_values(value, g):
    """A value of another kind."""
    return [None, True, -5, 1e308, "x", [], {}, [1], {"a": 1}, 0.5, "1e400", value][int(g.integers(11))]


def test_a_description_of_any_kind_gives_one_clear_error(cut):
    path = cut / "config.json"
    original = json.loads(path.read_text())
    g = np.random.default_rng(1)
    refused = 0
    for case in range(120):
        values = json.loads(json.dumps(original))
        target = values if case % 2 else values["config"]
        name = sorted(target)[int(g.integers(len(target)))]
        if case % 5 == 0:
            del target[name]
        else:
            target[name] = damaged_values(target[name], g)
        write_description(cut, values)
        started = time.monotonic()
        try:
            load_agent(cut)
        except CLEAR:
            refused += 1
        assert time.monotonic() - started < 20.0
    assert refused > 60
    for text in ("", "[]", "null", "{", "[" * 100_000, '{"agent": 3}', "\x00"):
        path.write_text(text)
        with pytest.raises(RunError, match="is not the directory of a run"):
            load_agent(cut)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match="missing or not a file"):
        load_agent(cut)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(RunError, match="missing or not a file"):
        load_agent(cut)


def test_a_configuration_changed_by_hand_does_not_fit_its_checkpoint(cut):
    path = cut / "config.json"
    values = json.loads(path.read_text())
    values["config"]["hidden"] = [17]
    path.write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"config\.json is not as it was written"):
        resume(cut, progress=False)
    write_description(cut, values)
    with pytest.raises(CheckpointError, match=r"does not fit the run's config\.json"):
        resume(cut, progress=False)
    values["config"]["total_env_steps"] = 1e300
    write_description(cut, values)
    with pytest.raises(RunError, match="total_env_steps must be at most 1e"):
        resume(cut, progress=False)
    values["config"]["total_env_steps"] = 10_000
    values["device"] = "abacus"
    write_description(cut, values)
    with pytest.raises(ConfigError, match="the device 'abacus' cannot be used"):
        resume(cut, progress=False)


def test_every_kept_run_is_understood_or_says_by_which_version():
    kept = sorted(path.parent for path in RESULTS.rglob("config.json"))
    assert len(kept) > 30
    for folder in kept:
        assert read_entries(folder)["agent"]
        if read_entries(folder).get("format") is None:
            with pytest.raises(RunError, match=r"from before 0\.1\.0"):
                read_description(folder)
        else:
            read_description(folder)


def test_a_format_of_the_future_is_refused(cut):
    path = cut / "config.json"
    values = json.loads(path.read_text()) | {"format": 99}
    path.write_text(json.dumps(values))
    with pytest.raises(RunError, match="it has format 99, and this version reads 2"):
        load_agent(cut)
