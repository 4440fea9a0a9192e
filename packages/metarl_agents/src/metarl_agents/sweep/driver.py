"""The loop that brings the jobs of a sweep through an engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live

from metarl_agents.run.checkpoint import newest_checkpoint
from metarl_agents.run.directory import write_json
from metarl_agents.run.lock import is_held
from metarl_agents.run.signals import handled_signals
from metarl_agents.sweep.engines.engine import LOST, Engine
from metarl_agents.sweep.job import LOCK, RUN, STATE, Job
from metarl_agents.sweep.status import job_status, status_table, table_console
from metarl_agents.sweep.worker import FAILED, FINISHED, STOPPED

#: Number of times that a job may lose its process without a new checkpoint in between.
MAX_LOSSES = 3
#: Seconds between looks at the jobs, and between refreshes of the table.
POLL_SECONDS, TABLE_SECONDS = 0.1, 2.0


@dataclass(frozen=True)
class SweepResult:
    """How a call of `run_sweep` ended.

    Attributes:
        states: state of every job.
        stopped: whether a signal stopped the sweep.
    """

    states: dict[Path, str]
    stopped: bool

    @property
    def finished(self) -> bool:
        """Whether every job is finished."""
        return all(state == FINISHED for state in self.states.values())


def run_sweep(
    jobs: Sequence[Job],
    folder: Path,
    engine: Engine,
    *,
    retry_failed: bool = False,
    progress: bool = True,
) -> SweepResult:
    """Runs or continues the jobs of a sweep.

    Args:
        jobs: the jobs, most urgent first.
        folder: the sweep's directory; every job has a directory in it. Finished jobs are not run again,
            those that have begun are continued from their newest checkpoint.
        engine: where jobs run.
        retry_failed: whether to start failed jobs again.
        progress: whether to show what happens, and at the end a table of all jobs.

    Returns:
        The state of every job. A failing job does not stop the others. After SIGINT or SIGTERM, the
        running jobs save a checkpoint and stop; after a second signal, they stop at the previous one.
    """
    paths = {job.write(folder): job for job in jobs}
    states = {path: job_status(path, job).state for path, job in paths.items()}
    done = (FINISHED,) if retry_failed else (FINISHED, FAILED)
    waiting = [path for path, state in states.items() if state not in done]
    with handled_signals() as signals:
        loop = _Loop(paths, waiting, engine, progress)
        signals.on_first = lambda: loop.say("stopping after the iterations that are running")
        try:
            loop.run(signals)
        finally:
            engine.close()
    found = [job_status(path, job) for path, job in paths.items()]
    if progress:
        loop.console.print(status_table(found))
    return SweepResult({status.path: status.state for status in found}, signals.stop)


class _Loop:
    """One call of `run_sweep`."""

    def __init__(self, paths: dict[Path, Job], waiting: list[Path], engine: Engine, progress: bool) -> None:
        self.paths = paths
        self.waiting = waiting
        self.engine = engine
        self.running: dict[Path, Any] = {}
        self.losses: Counter[Path] = Counter()
        self.checkpoints: dict[Path, int] = {}
        self.console = table_console(stderr=True)
        self.live: Live | None = None
        self.shown = progress
        self.next_look = 0.0

    def run(self, signals: Any) -> None:
        """Starts and watches jobs until there are none, or a signal stops them."""
        told = False
        if self.shown and self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        try:
            while self.running or (self.waiting and not signals.stop):
                if signals.stop and not told:
                    told = True
                    self._stop_all()
                if not signals.stop:
                    self._start()
                self._poll()
                self._show()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            # The second signal.
            self._stop_all()
            while self.running:
                self._poll()
                time.sleep(POLL_SECONDS)
        finally:
            if self.live is not None:
                self.live.stop()

    def _start(self) -> None:
        slots = self.engine.slots
        room = len(self.waiting) if slots is None else slots - len(self.running)
        # A held lock belongs to a worker of another call, or of one that was killed a moment ago.
        chosen = [path for path in self.waiting if not is_held(path / LOCK)][:room]
        for path in chosen:
            self.waiting.remove(path)
            self.checkpoints[path] = _position(path)
        if chosen:
            self.running |= dict(zip(chosen, self.engine.start(chosen), strict=True))

    def _poll(self) -> None:
        for path, handle in list(self.running.items()):
            how = self.engine.poll(handle)
            if how is None:
                continue
            del self.running[path]
            status = job_status(path, self.paths[path])
            if how == LOST:
                self._lost(path)
            elif status.state not in (FINISHED, FAILED, STOPPED):
                # Another process had the lock, or an evaluation was interrupted.
                self.waiting.append(path)
            else:
                self.say(f"{status.state}: {path.name}" + (f" ({status.error})" if status.error else ""))

    def _lost(self, path: Path) -> None:
        """Puts a job whose process died back into the queue, unless that happens again and again."""
        self.losses[path] = self.losses[path] + 1 if _position(path) == self.checkpoints[path] else 1
        if self.losses[path] < MAX_LOSSES:
            self.say(f"its process died; it will be continued: {path.name}")
            self.waiting.insert(0, path)
            return
        error = f"its process died {MAX_LOSSES} times without reaching a new checkpoint; see log.txt"
        write_json(path / STATE, {"state": FAILED, "error": error, "updated": time.time()})
        self.say(f"{FAILED}: {path.name} ({error})")

    def _stop_all(self) -> None:
        for handle in self.running.values():
            self.engine.stop(handle)

    def say(self, text: str) -> None:
        """Shows one line."""
        if self.shown:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        """Refreshes the table of the jobs that run."""
        if self.live is None or time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + TABLE_SECONDS
        self.live.update(
            status_table([job_status(path, self.paths[path]) for path in self.running]), refresh=True
        )


def _position(path: Path) -> int:
    """Iterations of a run's newest checkpoint; -1 without one."""
    newest = newest_checkpoint(path / RUN / "checkpoints")
    return -1 if newest is None else int(newest.name)
