"""Progress of a run: a bar on a terminal, otherwise plain lines."""

import sys
import time
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from metarl_agents.run.logger import Record

#: Seconds between lines if there is no bar.
LINE_SECONDS = 10.0


class RunProgress:
    """Shows steps, rate, time left and the current return.

    Args:
        log: log file; a line is written every ten seconds and at the end.
        total: environment steps of the run.
        done: environment steps already taken.
        updates_per_iteration: gradient steps of one iteration.
        shown: whether to write to the terminal or standard error.
    """

    def __init__(self, log: Path, *, total: int, done: int, updates_per_iteration: int, shown: bool) -> None:
        self.log = log
        self.total = total
        self.first = self.env_steps = done
        self.updates_per_iteration = updates_per_iteration
        self.updates = 0
        self.shown = shown
        self.started = time.perf_counter()
        self.last_line = 0.0
        self.current_return: float | None = None
        self.bar: Progress | None = None
        console = Console(stderr=True)
        if shown and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self.bar.start()
            self.task = self.bar.add_task("training", total=total, completed=done, state="")

    def update_step(self) -> None:
        """Counts a gradient step."""
        self.updates += 1
        if self.bar is not None and self.updates % 20 == 0:
            self.bar.update(self.task, state=self._state())

    def iteration(self, record: Record) -> None:
        """Updates the progress with the record of a finished iteration."""
        self.env_steps = int(record["env_steps"])
        # For agents that adapt within an iteration, the return after adaptation.
        found = record.get("collect/return_after", record.get("collect/return_mean"))
        self.current_return = self.current_return if found is None else found
        self.updates = 0
        if self.bar is not None:
            self.bar.update(self.task, completed=self.env_steps, state=self._state())
        if time.perf_counter() - self.last_line >= LINE_SECONDS:
            self._line()

    def message(self, text: str) -> None:
        """Shows and logs one line."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Writes the last line and removes the bar."""
        self._line()
        self.stop()

    def stop(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.stop()

    def _rate(self) -> float:
        return (self.env_steps - self.first) / max(time.perf_counter() - self.started, 1e-9)

    def _state(self) -> str:
        return (
            f"update {self.updates}/{self.updates_per_iteration}  {self._rate():,.0f} steps/s  "
            f"{self._return()}"
        )

    def _return(self) -> str:
        return "no return yet" if self.current_return is None else f"return {self.current_return:.1f}"

    def _line(self) -> None:
        self.last_line = time.perf_counter()
        line = f"{self.env_steps:,}/{self.total:,} steps  {self._rate():,.0f} steps/s  {self._return()}"
        # A model-based agent may take a while to its first step.
        if self.env_steps > self.first:
            left = (self.total - self.env_steps) / self._rate()
            line += f"  about {max(left, 0.0):,.0f} s left"
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.shown and self.bar is None:
            print(line, file=sys.stderr, flush=True)


class EpisodeProgress:
    """Shows how many episodes of an evaluation are done.

    Args:
        title: what is evaluated.
        shown: whether to write to the terminal or standard error.
    """

    def __init__(self, title: str, *, shown: bool) -> None:
        self.title = title
        self.shown = shown
        self.last_line = time.perf_counter()
        self.bar: Progress | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if self.shown and console.is_terminal:
            self.bar = Progress(
                TextColumn("evaluating {task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} episodes of all tasks"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=None)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def message(self, text: str) -> None:
        """Shows a line of the agent; without a bar, not more often than other lines."""
        if self.bar is not None:
            self.bar.console.print(f"{self.title}: {text}", highlight=False)
        elif self.shown and time.perf_counter() - self.last_line >= LINE_SECONDS:
            self.last_line = time.perf_counter()
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def episode(self, done: int, total: int) -> None:
        """Counts an episode of all tasks; called by `metarl_envs.evaluation.evaluate`."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total)
        elif self.shown and time.perf_counter() - self.last_line >= LINE_SECONDS:
            self.last_line = time.perf_counter()
            print(f"{self.title}: {done}/{total} episodes of all tasks", file=sys.stderr, flush=True)
