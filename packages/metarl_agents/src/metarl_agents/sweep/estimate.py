"""What jobs will cost: from runs of the same kind, or from one measured iteration."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from metarl_agents.common.matrix_products import choose_products
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.run.logger import Record, TrainingLogger
from metarl_agents.run.metrics import glossary
from metarl_agents.sweep.job import JOB, Job
from metarl_agents.sweep.status import JobStatus, job_status
from metarl_agents.sweep.worker import FINISHED

#: Sources of an estimate.
FROM_RUNS, FROM_ITERATION, UNKNOWN = "runs in the directory", "one iteration", "unknown"


@dataclass(frozen=True)
class Estimate:
    """Expected cost of what is left of a job.

    Attributes:
        status: the job and what it has done.
        core_seconds: CPU seconds of the training that is left, without evaluations; None if unknown.
        source: where the number is from.
    """

    status: JobStatus
    core_seconds: float | None
    source: str


def estimate(jobs: Sequence[Job], folder: Path, *, measure: bool = False) -> list[Estimate]:
    """Estimates the cost of jobs from the cost per environment step.

    The cost per step is that of the job's own run, else that of a run in the sweep's directory with the
    same agent, family and preset, else, with `measure`, that of an iteration that is run now and thrown away.
    The first iterations of an off-policy agent can be cheaper than later ones.
    """
    statuses = {job.key: job_status(folder / job.name, job) for job in jobs}
    rates: dict[tuple[str, ...], tuple[float, str]] = {}
    for path in sorted(p.parent for p in folder.glob(f"*/{JOB}")):
        status = job_status(path)
        if status.core_seconds and status.env_steps:
            rates[_kind(status.job)] = (status.core_seconds / status.env_steps, FROM_RUNS)
    found = []
    for job in jobs:
        status, kind = statuses[job.key], _kind(job)
        left = 0 if status.state == FINISHED else max(status.total_steps - status.env_steps, 0)
        if measure and left and kind not in rates:
            rates[kind] = (seconds_per_step(job), FROM_ITERATION)
        rate, source = rates.get(kind, (None, UNKNOWN))
        cost = 0.0 if not left else None if rate is None else left * rate
        found.append(Estimate(status, cost, source))
    return found


def _kind(job: Job) -> tuple[str, ...]:
    return (job.agent, job.env_id, job.preset, *sorted(f"{k}={v}" for k, v in job.overrides.items()))


def seconds_per_step(job: Job) -> float:
    """CPU seconds per environment step of one iteration, with one thread."""
    config = find_agent(job.agent).load().config_class().replace(job.config)
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        parts = assemble(
            job.agent, job.env_id, config, seed=job.seed, device=torch.device(job.device), threads=1
        )
        try:
            initial = parts.collector.collect_initial().n_collected_steps
            logger = TrainingLogger(
                Path(folder),
                glossary=glossary(job.agent),
                position=(0, initial, 0),
                lines=(0, 0),
                on_iteration=records.append,
                on_update=lambda: None,
                take_losses=parts.algorithm.means.take,
            )
            trainer = parts.trainer(logger, None, choose_products(config.matrix_products, job.device))
            trainer.reset(reset_collectors=False)
            started = time.process_time()
            trainer.execute_epoch()
            seconds = time.process_time() - started
            logger.finalize()
        finally:
            parts.env.close()
    return float(seconds / max(records[-1]["env_steps"] - initial, 1))
