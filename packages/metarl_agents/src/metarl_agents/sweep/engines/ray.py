"""Jobs as Ray Core tasks, here or on a cluster. Needs the extra `metarl-agents[ray]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metarl_agents.common.config import ConfigError
from metarl_agents.sweep.engines.engine import ENDED, LOST
from metarl_agents.sweep.job import Job
from metarl_agents.sweep.worker import run_job


class RayEngine:
    """Runs each job as one Ray task, which has one core and, for a job on CUDA, one GPU.

    The directory of the sweep must be visible under the same path on all machines.

    Args:
        workers: number of jobs that run together; by default, as many as the cluster has room for.
        address: address of a cluster, e.g. "auto"; None starts one on this machine.

    Raises:
        ConfigError: when Ray is not installed.
        ConnectionError: when there is no cluster at the address.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "the engine ray needs Ray; install the extra with: pip install 'metarl-agents[ray]'"
            ) from error
        self.ray = ray
        self.slots = workers
        cores = workers if address is None else None
        ray.init(address=address, num_cpus=cores, include_dashboard=False, log_to_driver=False)
        self.cancelled: set[Any] = set()

    def start(self, paths: list[Path]) -> list[Any]:
        """See `Engine`."""
        return [self._start(path) for path in paths]

    def _start(self, path: Path) -> Any:
        gpus = 0 if Job.read(path).device == "cpu" else 1
        # A lost job goes back to the driver, which counts the losses; Ray itself does not repeat it.
        task = self.ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(run_job)
        return task.remote(str(path.absolute()))

    def poll(self, handle: Any) -> str | None:
        """See `Engine`."""
        ready, _ = self.ray.wait([handle], timeout=0)
        if not ready:
            return None
        try:
            self.ray.get(handle)
        except self.ray.exceptions.TaskCancelledError:
            return ENDED
        except self.ray.exceptions.RayError:
            return LOST
        return ENDED

    def stop(self, handle: Any) -> None:
        """See `Engine`."""
        # The first cancellation raises SIGINT in the worker, which `run_job` handles like Ctrl-C.
        self.ray.cancel(handle, force=handle in self.cancelled)
        self.cancelled.add(handle)

    def close(self) -> None:
        """See `Engine`."""
        self.ray.shutdown()
