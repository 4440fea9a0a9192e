"""Runs one job of a sweep: `python -m metarl_agents.sweep.worker FOLDER`.

A job trains or resumes its run, then makes the reports that are missing. Every engine calls `run_job`. What a
job has done is in its directory, so it can be continued anywhere that the directory can be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarl_agents.common.config import ConfigError
from metarl_agents.run.directory import write_json
from metarl_agents.run.evaluate import evaluate_run
from metarl_agents.run.lock import exclusive
from metarl_agents.run.train import resume, train
from metarl_agents.sweep.job import JOB, LOCK, LOG, RUN, STATE, Evaluation, Job, make_job
from metarl_envs.evaluation import Report

#: States of a job in `state.json`; a job without this file is waiting.
RUNNING, STOPPED, FAILED, FINISHED = "running", "stopped", "failed", "finished"
#: What `run_job` returns if another process works on the job.
BUSY = "busy"


def run_job(folder: str | Path) -> str:
    """Trains or resumes a job's run and makes its missing reports.

    An error does not leave this function: it is recorded in the job's `state.json` and `log.txt`.

    Returns:
        The state that is recorded, or `BUSY` if another process works on the job.
    """
    path = Path(folder)
    with exclusive(path / LOCK) as held:
        if not held:
            return BUSY
        record: dict[str, Any] = {"state": RUNNING, "host": socket.gethostname(), "pid": os.getpid()}
        record["started"] = time.time()
        try:
            record["state"] = _advance(Job.read(path), path, record)
        except KeyboardInterrupt:
            record["state"] = STOPPED
        # Whatever goes wrong in one job, the others go on.
        except Exception as error:
            record |= {"state": FAILED, "error": f"{type(error).__name__}: {error}"}
            _log(path, traceback.format_exc())
        _write_state(path, record)
        return str(record["state"])


def _advance(job: Job, path: Path, record: dict[str, Any]) -> str:
    run = path / RUN
    made = make_job(job.agent, job.env_id, job.preset, job.seed, job.overrides, job.device)
    if made.key != json.loads((path / JOB).read_text(encoding="utf-8"))["key"]:
        raise ConfigError(
            "the preset, the family or the defaults of the agent have changed since the job was made; "
            "start the sweep again, which makes a new job"
        )
    _write_state(path, record | {"stage": "training"})
    if (run / "config.json").exists():
        result = resume(run, progress=False)
    else:
        result = train(
            job.agent,
            job.env_id,
            preset=job.preset,
            seed=job.seed,
            device=job.device,
            out=run,
            overrides=[f"{key}={value}" for key, value in job.overrides.items()],
            progress=False,
            command=job.command,
        )
    if not result.finished:
        return STOPPED
    for evaluation in job.evaluations:
        if not is_evaluated(run, evaluation):
            stage = f"evaluating: {evaluation.protocol}, {evaluation.split}"
            _write_state(path, record | {"stage": stage})
            evaluate_run(
                run,
                split=evaluation.split,
                protocol=evaluation.protocol,
                seeds=evaluation.seeds,
                num_tasks=evaluation.tasks,
                device=job.device,
            )
    return FINISHED


def is_evaluated(run: Path, evaluation: Evaluation) -> bool:
    """Whether a run has the report of this evaluation, with these trial seeds and tasks."""
    try:
        protocol = Report.from_json(run / evaluation.report).protocol
    except (OSError, ValueError):
        return False
    return (protocol.seeds, protocol.num_tasks) == (evaluation.seeds, evaluation.tasks)


def _write_state(path: Path, record: dict[str, Any]) -> None:
    write_json(path / STATE, record | {"updated": time.time()})


def _log(path: Path, text: str) -> None:
    with (path / LOG).open("a", encoding="utf-8") as file:
        file.write(text)


def _stop_with_the_driver() -> None:
    """Stops this process at the end of an iteration when the one that started it is gone.

    The driver holds the other end of the standard input and never writes to it.
    """

    def wait() -> None:
        with suppress(OSError):
            sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Runs the job of the directory on the command line; the exit status says whether it has an error."""
    parser = argparse.ArgumentParser(description="Runs one job of a sweep.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    _stop_with_the_driver()
    state = run_job(folder)
    print(f"{folder.name}: {state}", flush=True)
    sys.stdout.flush()
    # Not `sys.exit`: the thread still reads the standard input, which the end of the interpreter would close.
    os._exit(0 if state in (FINISHED, STOPPED, BUSY) else 1)


if __name__ == "__main__":
    main()
