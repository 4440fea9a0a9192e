"""Sweeps end to end on every engine: killed workers and drivers, failing jobs, added seeds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_run import ENV, OVERRIDES, assert_same_outcome
from typer.testing import CliRunner

from metarl_agents import train
from metarl_agents.cli import app
from metarl_agents.run.directory import core_seconds
from metarl_agents.run.lock import exclusive, is_held
from metarl_agents.sweep.estimate import estimate
from metarl_agents.sweep.job import Job
from metarl_agents.sweep.spec import read_spec
from metarl_agents.sweep.status import job_status
from metarl_agents.sweep.worker import BUSY, FAILED, FINISHED, STOPPED, run_job
from metarl_envs.evaluation import Report

pytestmark = [pytest.mark.long, pytest.mark.process]
#: 40 iterations of 360 steps, with a checkpoint after each.
STEPS = 40 * 360
TINY = [*(text for text in OVERRIDES["promp"] if "checkpoint" not in text), f"total_env_steps={STEPS}"]


def toml(value):
    return f"[{value}]" if "," in value else value


def specification(seeds=(0, 1, 2), extra=""):
    values = ", ".join(f"{k} = {toml(v)}" for k, v in (text.split("=") for text in TINY))
    return f"""
        agents = ["promp"]
        families = ["{ENV}"]
        seeds = {list(seeds)}
        trial_seeds = [0]
        tasks = 2
        overrides = {{ {values} }}
        {extra}
        """


#: A reward that no environment has: found when the run is assembled.
FAILING = f"""
    [[groups]]
    [[groups]]
    agents = ["pearl"]
    seeds = [0]
    overrides = {{ training_reward = "reward_of_nothing", total_env_steps = 2000 }}
    families = ["{ENV}"]
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The runs that the jobs of `specification` make, without a sweep."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {
        seed: train("promp", ENV, seed=seed, out=folder / str(seed), overrides=TINY, progress=False).run_dir
        for seed in (0, 1, 2)
    }


def wait_for(condition, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.02)
    return found


def iterations(path):
    metrics = path / "run" / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def running(jobs):
    """A job in the middle of its run, and the process that works on it."""
    for path in jobs:
        if 3 <= iterations(path) < 30 and is_held(path / "lock"):
            state = json.loads((path / "state.json").read_text())
            if state["state"] == "running":
                return path, state["pid"]
    return None


ENGINES = {
    "local": ["--workers", "2"],
    "ray": ["--engine", "ray", "--workers", "2"],
    "slurm": ["--engine", "slurm", "--workers", "2", "--slurm", "cluster=local"],
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_survives_the_death_of_a_worker_and_of_its_driver(engine, tmp_path, uninterrupted):
    (tmp_path / "spec.toml").write_text(specification(extra=FAILING))
    jobs = {job.seed: job for job in read_spec(tmp_path / "spec.toml") if job.agent == "promp"}
    out = tmp_path / "out"
    paths = [out / job.name for job in jobs.values()]
    metarl = str(Path(sys.executable).parent / "metarl")
    command = [metarl, "sweep", str(tmp_path / "spec.toml"), "--out", str(out), *ENGINES[engine]]
    log = (tmp_path / "log").open("wb")
    driver = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    path, pid = wait_for(lambda: running(paths))
    os.kill(pid, signal.SIGKILL)
    done = iterations(path)
    # Continued by the same driver, in another process.
    wait_for(lambda: ((now := running([path])) and now[1] != pid) or iterations(path) > done + 3)
    wait_for(lambda: running(paths) or driver.poll() is not None)
    driver.kill()
    driver.wait()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    log.close()
    text = (tmp_path / "log").read_text()
    assert "its process died; it will be continued" in text
    # One job fails, and says why; the others finish.
    assert again.returncode == 1, again.stdout + again.stderr
    assert "failed: pearl-" in again.stdout
    states = {p.name.split("-")[0]: job_status(p) for p in out.glob("*-seed*")}
    assert states["pearl"].state == FAILED
    assert "training_reward must be 'reward' or an info key" in states["pearl"].error
    for seed, job in jobs.items():
        assert job_status(out / job.name).state == FINISHED
        assert_same_outcome(out / job.name / "run", uninterrupted[seed])
        report = Report.from_json(out / job.name / "run" / "report_test_promp.json")
        assert report.returns.shape[:2] == (1, 2)


def test_ctrl_c_stops_a_sweep_and_the_same_command_continues_it(tmp_path, uninterrupted):
    (tmp_path / "spec.toml").write_text(specification(seeds=[0]))
    (job,) = read_spec(tmp_path / "spec.toml")
    path = tmp_path / "out" / job.name
    metarl = str(Path(sys.executable).parent / "metarl")
    command = [metarl, "sweep", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "out")]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: running([path]))
    driver.send_signal(signal.SIGINT)
    output = driver.communicate(timeout=60)[0]
    assert driver.returncode == 130, output
    assert "continue: the same command again" in output
    stopped = job_status(path)
    assert stopped.state == STOPPED
    assert 0 < stopped.env_steps < STEPS
    assert run_job(path) == FINISHED
    assert_same_outcome(path / "run", uninterrupted[0])
    # Nothing runs twice; a seed that is added does.
    before = (path / "run" / "timing.jsonl").read_bytes()
    assert run_job(path) == FINISHED
    assert (path / "run" / "timing.jsonl").read_bytes() == before
    assert core_seconds(path / "run") > 0
    (tmp_path / "spec.toml").write_text(specification(seeds=[0, 1]))
    estimates = estimate(read_spec(tmp_path / "spec.toml"), tmp_path / "out")
    assert [e.status.state for e in estimates] == [FINISHED, "waiting"]
    assert estimates[0].core_seconds == 0.0
    # The second seed costs what the first one did, within the cost of its last, unequal iteration.
    assert estimates[1].core_seconds == pytest.approx(core_seconds(path / "run"), rel=0.1)


def test_two_processes_do_not_work_on_one_job(tmp_path):
    (tmp_path / "spec.toml").write_text(specification(seeds=[0]))
    (job,) = read_spec(tmp_path / "spec.toml")
    path = job.write(tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom metarl_agents.run.lock import exclusive\n"
            "with exclusive(Path(sys.argv[1])) as held:\n    print(held, flush=True)\n    time.sleep(60)",
            str(path / "lock"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "True\n"
    assert is_held(path / "lock")
    assert run_job(path) == BUSY
    holder.kill()
    holder.wait()
    assert not is_held(path / "lock")
    with exclusive(path / "lock") as held:
        assert held


def test_a_job_whose_preset_has_changed_is_not_run(tmp_path):
    (tmp_path / "spec.toml").write_text(specification(seeds=[0]))
    (job,) = read_spec(tmp_path / "spec.toml")
    path = job.write(tmp_path)
    values = json.loads((path / "job.json").read_text())
    values["key"] = "0" * 64
    (path / "job.json").write_text(json.dumps(values))
    assert run_job(path) == FAILED
    assert "have changed since the job was made" in job_status(path).error


def test_the_commands_list_jobs_and_refuse_bad_options(tmp_path):
    (tmp_path / "spec.toml").write_text(specification())
    runner = CliRunner()
    listed = runner.invoke(
        app, ["sweep", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "x"), "--dry-run", "--measure"]
    )
    assert listed.exit_code == 0, listed.output
    assert "3 jobs; about 0.0 core hours of training are left" in listed.output
    assert "unknown cost" not in listed.output
    assert not (tmp_path / "x").exists()
    for options, message in (
        (["--engine", "sun"], "unknown engine 'sun'"),
        (["--address", "auto"], "--address is an option of the engine ray"),
        (["--slurm", "a=1"], "--slurm is an option of the engine slurm"),
    ):
        refused = runner.invoke(
            app, ["sweep", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "x"), *options]
        )
        assert refused.exit_code != 0
        assert message in str(refused.exception)
    # In another process, because submitit configures the logging of the one that imports it.
    refusals = (
        "from pathlib import Path\nfrom metarl_agents.sweep.engines.slurm import SlurmEngine\n"
        "for values in ({'cluster': 'moon'}, {'cluster': 'local', 'tea': '1'}):\n"
        "    try:\n        SlurmEngine(Path('slurm'), values)\n"
        "    except ValueError as error:\n        print(error)"
    )
    refused = subprocess.run(
        [sys.executable, "-c", refusals], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert "cluster must be slurm or local, not 'moon'" in refused.stdout
    assert "submitit refuses its parameters" in refused.stdout
    job = read_spec(tmp_path / "spec.toml")[0]
    assert Job.read(job.write(tmp_path / "x")) == job
    shown = runner.invoke(app, ["sweep", "status", str(tmp_path / "x")])
    assert "1 waiting; 0.00 core hours so far" in shown.output
    nothing = runner.invoke(app, ["sweep", "status", str(tmp_path)])
    assert "is not the directory of a sweep" in str(nothing.exception)
