"""Jobs as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from metarl_agents.sweep.engines.engine import ENDED, LOST
from metarl_agents.sweep.job import LOG

Worker = subprocess.Popen[bytes]


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class LocalEngine:
    """Runs each job in a process of its own, with one thread of PyTorch.

    A worker stops by itself when this process is gone, because its standard input ends.

    Attributes:
        slots: number of processes; by default, one for each core.
    """

    slots: int = field(default_factory=cores)

    def start(self, paths: list[Path]) -> list[Worker]:
        """See `Engine`."""
        return [self._start(path) for path in paths]

    def _start(self, path: Path) -> Worker:
        with (path / LOG).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "metarl_agents.sweep.worker", str(path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # Ctrl-C reaches this process only, which passes it on once.
                start_new_session=True,
            )

    def poll(self, handle: Worker) -> str | None:
        """See `Engine`."""
        code = handle.poll()
        if code is None:
            return None
        return LOST if code < 0 else ENDED

    def stop(self, handle: Worker) -> None:
        """See `Engine`."""
        handle.terminate()

    def close(self) -> None:
        """See `Engine`."""
