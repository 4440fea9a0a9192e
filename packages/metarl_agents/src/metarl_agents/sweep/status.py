"""What each job of a sweep has done, read from the files in its directory."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from metarl_agents.common.config import ConfigError
from metarl_agents.run.directory import core_seconds
from metarl_agents.run.lock import is_held
from metarl_agents.sweep.job import JOB, LOCK, RUN, STATE, Job
from metarl_agents.sweep.worker import FAILED, FINISHED, RUNNING, STOPPED, is_evaluated

WAITING, INTERRUPTED = "waiting", "interrupted"
#: The states, as tables order them.
STATES = (RUNNING, INTERRUPTED, STOPPED, WAITING, FINISHED, FAILED)


@dataclass(frozen=True)
class JobStatus:
    """What a job has done.

    Attributes:
        job: the job.
        path: its directory.
        state: "waiting", "running", "stopped" (by a signal), "interrupted" (its process died), "finished"
            or "failed".
        stage: what it is doing, if it is running.
        error: the error of a failed job.
        env_steps: environment steps of its run so far.
        total_steps: environment steps of the finished run.
        core_seconds: CPU seconds of the training so far; None for a run that did not record them.
        last_return: mean return of the latest iteration's episodes, after adaptation where there is one.
    """

    job: Job
    path: Path
    state: str
    stage: str
    error: str
    env_steps: int
    total_steps: int
    core_seconds: float | None
    last_return: float | None

    @property
    def core_seconds_left(self) -> float | None:
        """Estimate from the job's own rate; None before its first iteration."""
        if not self.env_steps or self.core_seconds is None:
            return None
        left = max(self.total_steps - self.env_steps, 0)
        return self.core_seconds * left / self.env_steps


def sweep_jobs(folder: Path) -> list[Path]:
    """The directories of the jobs of a sweep.

    Raises:
        ConfigError: when there are none.
    """
    paths = sorted(path.parent for path in folder.glob(f"*/{JOB}"))
    if not paths:
        raise ConfigError(f"{folder} is not the directory of a sweep: there are no jobs in it")
    return paths


def job_status(path: Path, job: Job | None = None) -> JobStatus:
    """Reads a job's directory."""
    job = job or Job.read(path)
    record = _read_json(path / STATE)
    state = record.get("state", WAITING)
    if state == RUNNING and not is_held(path / LOCK):
        state = INTERRUPTED
    run = path / RUN
    if state == FINISHED and not all(is_evaluated(run, evaluation) for evaluation in job.evaluations):
        # Evaluations were added to the specification.
        state = WAITING
    last = _last_line(run / "metrics.jsonl")
    value = last.get("collect/return_after", last.get("collect/return_mean"))
    return JobStatus(
        job=job,
        path=path,
        state=state,
        stage=record.get("stage", "") if state == RUNNING else "",
        error=record.get("error", "") if state == FAILED else "",
        env_steps=int(last.get("env_steps", 0)),
        total_steps=int(job.config["total_env_steps"]),
        core_seconds=core_seconds(run),
        last_return=value,
    )


def status_table(found: Sequence[JobStatus]) -> Table:
    """A table with a row for each job, and the numbers of jobs by state as its caption."""
    counts = Counter(status.state for status in found)
    variants = describe_variants([status.job for status in found])
    total = sum(status.core_seconds or 0.0 for status in found)
    caption = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    table = Table(caption=f"{caption}; {hours(total)} core hours so far", caption_justify="left")
    for name, side in (("job", "left"), ("state", "left"), ("steps", "right"), ("%", "right")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for name in ("return", "core h", "core h left"):
        table.add_column(name, justify="right")
    for status in found:
        job = status.job
        share = min(status.env_steps / status.total_steps, 1.0)
        label = f"{job.agent} {job.env_id} {job.preset} seed {job.seed}{variants[job.key]}"
        note = status.stage or status.error
        left = status.core_seconds_left if status.state != FINISHED else 0.0
        table.add_row(
            label,
            f"{status.state}: {note}" if note else status.state,
            f"{status.env_steps:,}",
            f"{share:.0%}",
            "" if status.last_return is None else f"{status.last_return:.1f}",
            hours(status.core_seconds),
            hours(left),
        )
    return table


def describe_variants(jobs: Sequence[Job]) -> dict[str, str]:
    """For each job's key, the overrides that not all jobs of its agent, family and preset have."""
    kinds: dict[tuple[str, str, str], list[Job]] = {}
    for job in jobs:
        kinds.setdefault((job.agent, job.env_id, job.preset), []).append(job)
    found = {}
    for same in kinds.values():
        common = set.intersection(*(set(job.overrides.items()) for job in same))
        for job in same:
            own = (f" {key}={value}" for key, value in job.overrides.items() if (key, value) not in common)
            found[job.key] = "".join(own)
    return found


def table_console(*, stderr: bool = False) -> Console:
    """A console for tables, which are not wrapped to 80 columns where there is no terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def print_status(folder: Path, *, follow: bool = False) -> None:
    """Prints the table of a sweep; with `follow`, again and again until no job is running.

    Raises:
        ConfigError: when the directory is not one of a sweep.
    """
    paths = sweep_jobs(folder)
    found = [job_status(path) for path in paths]
    console = table_console()
    if not follow:
        console.print(status_table(found))
        return
    with Live(status_table(found), console=console, auto_refresh=False) as live:
        while any(status.state == RUNNING for status in found):
            time.sleep(2.0)
            # What is finished stays so, and its reports can be large.
            found = [s if s.state == FINISHED else job_status(s.path, s.job) for s in found]
            live.update(status_table(found), refresh=True)


def hours(seconds: float | None) -> str:
    """Seconds as hours for a table; nothing if unknown."""
    return "" if seconds is None else f"{seconds / 3600:.2f}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _last_line(path: Path) -> dict[str, Any]:
    """The last complete line of a file of JSON lines; runs append to it while this reads."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            return values
    return {}
