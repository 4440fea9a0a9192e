"""Jobs as tasks of Slurm, submitted as arrays by submitit. Needs the extra `metarl-agents[slurm]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl_agents.common.config import ConfigError
from metarl_agents.sweep.engines.engine import ENDED, LOST
from metarl_agents.sweep.worker import run_job

#: Parameters of submitit that hold unless they are given.
DEFAULTS: dict[str, Any] = {"name": "metarl", "timeout_min": 24 * 60, "cpus_per_task": 1}
#: Number of time limits that a job may reach; each time it is submitted again and continues.
MAX_TIMEOUTS = 1000


class JobTask:
    """What a task of Slurm runs; submitit calls `checkpoint` before a time limit or a preemption."""

    def __call__(self, folder: str) -> str:
        """Runs the job of the directory."""
        return run_job(folder)

    def checkpoint(self, folder: str) -> Any:
        """The task to submit again: the same one, because the job continues from its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder)


class SlurmEngine:
    """Submits jobs to Slurm, a whole array at once.

    submitit keeps its own files, which it pickles, in `folder`; they contain the path of a job and nothing
    that a job has learned.

    Args:
        folder: directory for submitit's files.
        parameters: parameters of submitit's executors, e.g. `{"slurm_partition": "cpu"}`. The key
            "cluster" is "slurm" by default; "local" runs the same on this machine, without Slurm.
        workers: number of jobs that run together; by default, Slurm decides.

    Raises:
        ConfigError: when submitit is not installed, or for an unknown parameter.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, str], workers: int | None = None) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "the engine slurm needs submitit; install the extra with: pip install 'metarl-agents[slurm]'"
            ) from error
        values = {key: int(value) if value.isdigit() else value for key, value in parameters.items()}
        cluster = values.pop("cluster", "slurm")
        if cluster not in ("slurm", "local"):
            raise ConfigError(f"cluster must be slurm or local, not {cluster!r}")
        if cluster == "slurm" and workers is not None:
            values["slurm_array_parallelism"] = workers
        self.slots = workers if cluster == "local" else None
        folder = folder.absolute()
        try:
            self.executor = submitit.AutoExecutor(
                folder=folder, cluster=cluster, **{f"{cluster}_max_num_timeout": MAX_TIMEOUTS}
            )
            self.executor.update_parameters(**DEFAULTS | values)
        except (NameError, ValueError, RuntimeError) as error:
            raise ConfigError(f"submitit refuses its parameters: {error}") from error

    def start(self, paths: list[Path]) -> list[Any]:
        """See `Engine`."""
        return list(self.executor.map_array(JobTask(), [str(path.absolute()) for path in paths]))

    def poll(self, handle: Any) -> str | None:
        """See `Engine`."""
        if not handle.done():
            return None
        # Also a failure of submitit itself: what the job has done is in its own directory.
        return ENDED if handle.exception() is None else LOST

    def stop(self, handle: Any) -> None:
        """See `Engine`."""
        handle.cancel()

    def close(self) -> None:
        """See `Engine`."""
