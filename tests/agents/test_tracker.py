"""Runs recorded by Weights & Biases, offline.

wandb replaces classes of TensorBoard, `sys.excepthook` and the standard streams, so all runs with it are in
processes of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_run import ENV, OVERRIDES, assert_same_outcome, tiny

from metarl_agents.common.config import ConfigError

#: Iterations of 360 steps.
STEPS = 4 * 360
SETTINGS = [part for text in OVERRIDES["maml"] for part in ("--set", text)]
# Stops the process by Ctrl-C after iteration 2, as in test_run.py.
STOP = (
    "from torch.utils.tensorboard import SummaryWriter; from test_run import interrupt_after; "
    "SummaryWriter.add_scalar = interrupt_after(2); "
)


def metarl(arguments, folder, *, code="", **environment):
    """Runs `metarl` in a process, after some code."""
    tests = str(Path(__file__).parent)
    return subprocess.run(
        [sys.executable, "-c", f"{code}from metarl_agents.cli import main; main()", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": tests, "HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def train_arguments(out, *more):
    return [
        "train", "maml", ENV, "--seed", 7, "--steps", STEPS, "--out", out, "--no-progress",
        "--logger", "wandb", *more, *SETTINGS,
    ]  # fmt: skip


def recorded(folder):
    """Run, configuration and history of an offline directory of wandb, by its own reader."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.glob("*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    history = []
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            items = ((item.key or "/".join(item.nested_key), item.value_json) for item in record.history.item)
            history.append({key: json.loads(value) for key, value in items})
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    return run, config, history


@pytest.mark.long
@pytest.mark.process
def test_a_resumed_run_is_one_wandb_run(tmp_path):
    out = tmp_path / "run"
    said = metarl(train_arguments(out), tmp_path, code=STOP, WANDB_MODE="offline", WANDB_PROJECT="mine")
    assert said.returncode == 130, said.stderr
    said = metarl(["resume", out, "--no-progress"], tmp_path, WANDB_MODE="offline")
    assert said.returncode == 0, said.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "home"}
    parts = sorted((out / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    description = json.loads((out / "config.json").read_text())
    histories = []
    for part in parts:
        run, config, history = recorded(part)
        assert run.run_id == description["wandb"]["run_id"]
        assert run.project == description["wandb"]["project"] == "mine"
        assert (run.run_group, run.display_name) == (f"maml-{ENV}-fast", f"maml-{ENV}-fast-7")
        assert config["config"] == description["config"]
        assert (config["agent"], config["seed"]) == ("maml", 7)
        histories.append(history)
    assert [[row["iteration"] for row in history] for history in histories] == [[1, 2], [3, 4]]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row, line in zip([*histories[0], *histories[1]], lines, strict=True):
        assert row["global_step"] == line["env_steps"]
        # Events are float32.
        assert {name: row[name] for name in line} == pytest.approx(line, rel=1e-6)
    # It is the run that it is without wandb.
    tiny(tmp_path / "without", "maml", steps=STEPS)
    assert_same_outcome(out, tmp_path / "without")
    # A finished run has nothing to record.
    said = metarl(["resume", out, "--no-progress"], tmp_path, WANDB_MODE="offline")
    assert said.returncode == 0, said.stderr
    assert sorted((out / "wandb").glob("offline-run-*")) == parts


@pytest.mark.slow
def test_training_seeds_are_wandb_runs_of_one_group(tmp_path):
    said = metarl(train_arguments(tmp_path / "runs", "--seed", "7,8"), tmp_path, WANDB_MODE="offline")
    assert said.returncode == 0, said.stderr
    runs = {}
    for seed in (7, 8):
        (folder,) = (tmp_path / f"runs/seed-{seed}/wandb").glob("offline-run-*")
        run, config, history = recorded(folder)
        assert config["seed"] == seed
        assert [row["iteration"] for row in history] == [1, 2, 3, 4]
        runs[run.run_id] = run.run_group
    assert len(runs) == 2
    assert len(set(runs.values())) == 1


@pytest.mark.process
def test_without_the_package_nothing_is_written(tmp_path):
    missing = "import sys; sys.modules['wandb'] = None; "
    said = metarl(train_arguments(tmp_path / "run"), tmp_path, code=missing)
    assert said.returncode == 2
    assert said.stderr == (
        "error: the logger wandb needs Weights & Biases; install the extra with: "
        "pip install 'metarl-agents[wandb]'\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_login_the_message_says_what_to_do(tmp_path):
    out = tmp_path / "run"
    said = metarl(train_arguments(out), tmp_path, WANDB_MODE="online", WANDB_API_KEY="")
    assert said.returncode == 2
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: wandb does not start: ")
    assert line.endswith(f"WANDB_MODE=offline in the environment, start the run with: metarl resume {out}")
    assert (out / "config.json").exists()


@pytest.mark.slow
def test_a_wandb_run_of_the_process_is_left_alone(tmp_path):
    code = (
        "import wandb; wandb.init(id='other', mode='offline'); import atexit; "
        "atexit.register(lambda: print('still', wandb.run.id)); "
    )
    said = metarl(train_arguments(tmp_path / "run"), tmp_path, code=code)
    assert said.returncode == 2
    assert "error: this process already has a wandb run (other)" in said.stderr
    assert "still other" in said.stdout


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown logger 'wand'; did you mean 'wandb'"):
        tiny(tmp_path / "run", "maml", logger="wand")
    assert not (tmp_path / "run").exists()
