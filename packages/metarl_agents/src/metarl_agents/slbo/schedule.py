"""What a run of multi-task SLBO does next: which task it is at, and how far its warm-up has come."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metarl_agents.slbo.selection import estimated_rating, performed


@dataclass
class Schedule:
    """The place of a run between its tasks; all of it is part of a checkpoint.

    Attributes:
        order: training tasks that are still to be visited, in the order of the visits.
        task: the task whose policy is trained; None before the first one.
        policies: policies that have been begun.
        inner_done: inner iterations of this policy's warm-up so far.
        inner_total: inner iterations of the run.
        trained_tasks: tasks whose steps are in the data.
        skipped_tasks: tasks that were rated and not trained on.
        real_steps: real steps of the run, without measurements.
        rating_steps: of these, the steps that only rated a task.
        measured_steps: real steps that only measured a policy.
        first_returns: virtual return at the start of each inner iteration of the warm-up.
        last_returns: virtual return at the end of each of them.
        ratings: ratings of all tasks so far.
        candidates: tasks and their ratings since the last one that was trained on ("window").
    """

    order: list[int] = field(default_factory=list)
    task: int | None = None
    policies: int = 0
    inner_done: int = 0
    inner_total: int = 0
    trained_tasks: int = 0
    skipped_tasks: int = 0
    real_steps: int = 0
    rating_steps: int = 0
    measured_steps: int = 0
    first_returns: list[float] = field(default_factory=list)
    last_returns: list[float] = field(default_factory=list)
    ratings: list[float] = field(default_factory=list)
    candidates: list[tuple[int, float]] = field(default_factory=list)

    def begin_task(self, num_tasks: int, generator: np.random.Generator) -> None:
        """Goes to the next task: all of them in a random order, then all of them again."""
        if not self.order:
            self.order = generator.permutation(num_tasks).tolist()
        self.task = self.order.pop(0)
        self.policies += 1
        self.inner_done = 0
        self.first_returns, self.last_returns = [], []

    def inner_iteration(self, first_return: float, last_return: float) -> None:
        """Counts an inner iteration with its virtual returns."""
        self.inner_done += 1
        self.inner_total += 1
        self.first_returns.append(first_return)
        self.last_returns.append(last_return)

    def estimated_rating(self) -> float:
        """The rating of the task from its warm-up."""
        return estimated_rating(self.first_returns, self.last_returns)

    def real_rating(self, real_return: float) -> float:
        """The rating of the task when its policy earns this in reality."""
        return self.last_returns[-1] - real_return

    def passes(self, rating: float) -> bool:
        """Keeps a rating, and says whether its task is trained on."""
        self.ratings.append(rating)
        return performed(self.ratings)

    def offer(self, rating: float, wanted: int) -> tuple[bool, bool]:
        """Makes the task a candidate, and says whether it is the best so far, and whether it is the last.

        After the last one, `task` is the best candidate, and the others are skipped.

        Args:
            rating: the rating of the task.
            wanted: number of candidates.
        """
        assert self.task is not None
        self.ratings.append(rating)
        best = all(rating > other for _, other in self.candidates)
        self.candidates.append((self.task, rating))
        complete = len(self.candidates) >= wanted
        if complete:
            self.task = max(self.candidates, key=lambda candidate: candidate[1])[0]
            self.skipped_tasks += len(self.candidates) - 1
            self.candidates = []
        return best, complete

    def state(self) -> dict[str, Any]:
        """All attributes, convertible to JSON."""
        return dataclasses.asdict(self)

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned, also after it was JSON."""
        for name, value in state.items():
            setattr(self, name, value)
        self.candidates = [(task, rating) for task, rating in self.candidates]
