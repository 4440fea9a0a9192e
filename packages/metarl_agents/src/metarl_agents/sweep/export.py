"""Copying the finished runs of a sweep into a folder of results, without what only resuming needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from metarl_agents.run.directory import RunError, read_entries, write_json
from metarl_agents.sweep.job import RUN
from metarl_agents.sweep.matrix import COST
from metarl_agents.sweep.status import job_status, sweep_jobs
from metarl_agents.sweep.worker import FINISHED
from metarl_envs.evaluation import Report
from metarl_envs.files import atomic_path

#: What is copied: small files that describe the run and its results.
FILES = ("config.json", "versions.json", "metrics.jsonl", "evaluations.jsonl")


def export(folder: Path, out: Path) -> list[Path]:
    """Copies every finished run of a sweep to `out/AGENT/FAMILY/PRESET-seed-SEED`.

    Of a report, the means over the episodes between two updates are kept; see `Report.condense`. A run
    whose configuration differs from the preset has the beginning of its job's hash in its name. What
    was exported before is replaced if it is of the same run.

    Returns:
        The directories of the exported runs.

    Raises:
        ConfigError: when the folder is not the directory of a sweep.
        RunError: when there is another run in the place of one.
    """
    written = []
    for path in sweep_jobs(folder):
        status = job_status(path)
        if status.state != FINISHED:
            continue
        job = status.job
        changed = f"-{job.key[:6]}" if job.overrides else ""
        target = out / job.agent / job.env_id / f"{job.preset}-seed-{job.seed}{changed}"
        _check(target, path / RUN)
        target.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            source = path / RUN / file
            if source.exists():
                with atomic_path(target / file) as temporary:
                    shutil.copyfile(source, temporary)
        for source in sorted((path / RUN).glob("report_*.json")):
            Report.from_json(source).condense().to_json(target / source.name)
        write_json(target / COST, {"core_seconds": status.core_seconds, "env_steps": status.env_steps})
        written.append(target)
    return written


def _check(target: Path, run: Path) -> None:
    """Refuses to put a run in the place of another one."""
    if not (target / "config.json").exists():
        return
    before, now = (read_entries(folder)["config"] for folder in (target, run))
    if before != now:
        raise RunError(f"{target} contains a run with another configuration; move it, or export elsewhere")
