"""The interface of engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

#: How a job that was started came to its end: by returning, or because its process or machine died.
ENDED, LOST = "ended", "lost"


class Engine(Protocol):
    """Runs `metarl_agents.sweep.worker.run_job` for directories of jobs, somewhere.

    A handle is whatever the engine needs to find a started job again.
    """

    @property
    def slots(self) -> int | None:
        """Number of jobs that run at the same time; None if something else decides, e.g. a queue."""
        ...

    def start(self, paths: list[Path]) -> list[Any]:
        """Starts jobs and returns a handle for each of them."""
        ...

    def poll(self, handle: Any) -> str | None:
        """`ENDED`, `LOST`, or None while the job waits or runs."""
        ...

    def stop(self, handle: Any) -> None:
        """Asks a job to stop after its iteration; a second time, to stop at its last checkpoint."""
        ...

    def close(self) -> None:
        """Releases what the engine holds; jobs that still run are stopped."""
        ...
