"""Replay buffer of whole episodes, with one ring per task in a common allocation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from tianshou.data import Batch, ReplayBuffer

from metarl_agents.common.seeding import numpy_state, restore_numpy_state

IntArray = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]

#: Columns that every buffer has, in Tianshou's names.
STEP_KEYS = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next")


class TaskReplayBuffer(ReplayBuffer):
    """Whole episodes of many tasks, sampled as meta-batches `[T, B]` and windows `[T, B, S]`.

    Task k has rows `k * capacity` to `(k + 1) * capacity`, a ring of consecutive episodes. Counters
    per task, which only increase, describe the ring: `head` transitions were written, those from
    `tail` on are still stored, and `[context_start, context_end)` is the *context view*: the
    transitions collected since the context of the task was last cleared (the encoder buffer of
    PEARL, without a second copy). A transition with counter value c is in row `c mod capacity` of
    its task. Old episodes are removed as a whole, so `tail` is always the start of an episode.

    It is a Tianshou `ReplayBuffer`: `buffer.obs`, `buffer[rows]` (rows of any shape), `len`,
    `sample`, `prev`, `next` and `hasnull` have the same meaning, and trainers accept it. It has its
    own random generator.

    Args:
        num_tasks: number of tasks K.
        capacity: maximum number C of transitions per task.
        observation_size: size O of an observation.
        action_size: size A of an action.
        generator: random generator of the buffer.
        info_keys: names of further float32 columns per transition, stored under `info`.
    """

    def __init__(
        self,
        num_tasks: int,
        capacity: int,
        observation_size: int,
        action_size: int,
        *,
        generator: np.random.Generator,
        info_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(size=num_tasks * capacity)
        self.num_tasks = num_tasks
        self.capacity = capacity
        self.info_keys = tuple(info_keys)
        self.generator = generator
        rows = num_tasks * capacity
        columns = Batch()
        # np.zeros reserves only address space; memory is used when rows are written.
        for key, width in (
            ("obs", observation_size),
            ("act", action_size),
            ("obs_next", observation_size),
        ):
            columns[key] = np.zeros((rows, width), np.float32)
        columns["rew"] = np.zeros(rows, np.float32)
        for key in ("terminated", "truncated", "done"):
            columns[key] = np.zeros(rows, bool)
        columns["info"] = Batch({key: np.zeros(rows, np.float32) for key in self.info_keys})
        self._meta = columns
        # Steps since the start of the episode and until its end, used for windows and for removal.
        self.step_index = np.zeros(rows, np.int32)
        self.steps_left = np.zeros(rows, np.int32)
        self.head = np.zeros(num_tasks, np.int64)
        self.tail = np.zeros(num_tasks, np.int64)
        self.context_start = np.zeros(num_tasks, np.int64)
        self.context_end = np.zeros(num_tasks, np.int64)

    # -- Tianshou's interface of a buffer -------------------------------------------------------

    def __len__(self) -> int:
        return int((self.head - self.tail).sum())

    @property
    def subbuffer_edges(self) -> IntArray:
        """First row of each task's ring, and the number of rows."""
        return np.arange(self.num_tasks + 1, dtype=np.int64) * self.capacity

    def hasnull(self) -> bool:
        """Always false, because `add_episodes` rejects values that are not finite.

        Tianshou's trainers call this after every collection; the original method copies the whole buffer
        (0.3 to 0.8 s for a million transitions).
        """
        return False

    def reset(self, keep_statistics: bool = False) -> None:
        """Removes all transitions. The state of the generator does not change."""
        for counter in (self.head, self.tail, self.context_start, self.context_end):
            counter[:] = 0

    def add(self, batch: Batch, buffer_ids: NDArray[Any] | list[int] | None = None) -> NoReturn:
        """Not available, because single steps of several simulations are not whole episodes.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a TaskReplayBuffer stores whole episodes: call add_episodes, or collect with a MetaCollector"
        )

    def sample_indices(self, batch_size: int | None) -> IntArray:
        """Rows drawn uniformly over all transitions; 0 gives all rows, oldest first per task."""
        sizes = self.head - self.tail
        if batch_size == 0:
            return np.concatenate(
                [self._rows(np.array([k]), np.arange(n)[None])[0] for k, n in enumerate(sizes)]
            )
        count = len(self) if batch_size is None else batch_size
        flat = (self.generator.random(count) * len(self)).astype(np.int64)
        ends = np.cumsum(sizes)
        tasks = np.searchsorted(ends, flat, side="right")
        return self._rows(tasks, flat - (ends - sizes)[tasks])

    def unfinished_index(self) -> IntArray:
        """Rows of the last step of unfinished episodes: there are none."""
        return np.zeros(0, np.int64)

    def prev(self, index: int | NDArray[Any]) -> Any:
        """The previous row, or the same row at the start of an episode."""
        return self._neighbour(index, self.step_index, -1)

    def next(self, index: int | NDArray[Any]) -> Any:
        """The next row, or the same row at the end of an episode."""
        return self._neighbour(index, self.steps_left, 1)

    def _neighbour(self, index: int | NDArray[Any], distance: NDArray[np.int32], by: int) -> Any:
        rows = np.asarray(index, np.int64)
        tasks, local = np.divmod(rows, self.capacity)
        moved = tasks * self.capacity + (local + by) % self.capacity
        result = np.where(distance[rows] == 0, rows, moved)
        return int(result) if np.isscalar(index) else result

    # -- writing --------------------------------------------------------------------------------

    def add_episodes(
        self,
        tasks_N: IntArray,
        lengths_N: IntArray,
        episodes: Mapping[str, NDArray[Any]],
        *,
        to_context: bool,
    ) -> IntArray:
        """Appends N whole episodes, each to the ring of its task, in the order given.

        Args:
            tasks_N: task index of each episode; a task may occur several times.
            lengths_N: number of steps of each episode, at least 1.
            episodes: arrays (N, H, ...) with H at least the longest episode, under the keys `obs`,
                `act`, `rew`, `terminated`, `truncated`, `obs_next` and the info keys. Steps beyond
                an episode's length are ignored.
            to_context: whether to add the episodes to their task's context view.

        Returns:
            The rows written, episode by episode.

        Raises:
            ValueError: when a value is not finite, when one call adds more transitions to a task than
                its ring can store, or when the episodes cannot be added to the context view because
                others that are not in it were written after it was cleared.
        """
        tasks_N = np.asarray(tasks_N, np.int64)
        lengths_N = np.asarray(lengths_N, np.int64)
        added_K = np.bincount(tasks_N, weights=lengths_N, minlength=self.num_tasks)
        added_K = added_K.astype(np.int64)
        if added_K.max(initial=0) > self.capacity:
            raise ValueError(
                f"task {int(added_K.argmax())} receives {added_K.max()} transitions at once, but "
                f"its ring stores {self.capacity}: increase the buffer's capacity"
            )
        touched = np.flatnonzero(added_K)
        if to_context and np.any(self.context_end[touched] != self.head[touched]):
            raise ValueError(
                "the transitions of the context view must be contiguous: clear it with "
                "clear_context before adding to it again"
            )
        source, rows = self._placement(tasks_N, lengths_N)
        values = {key: episodes[key][source] for key in (*STEP_KEYS, *self.info_keys) if key != "done"}
        for key, column in values.items():
            if not np.isfinite(column).all():
                raise ValueError(f"a collected episode has a value in {key!r} that is not finite")
        self._evict(touched, added_K[touched])
        for key, column in values.items():
            target = self._meta["info"] if key in self.info_keys else self._meta
            target[key][rows] = column
        self._meta["done"][rows] = values["terminated"] | values["truncated"]
        self.step_index[rows] = source[1]
        self.steps_left[rows] = lengths_N[source[0]] - 1 - source[1]
        self.head += added_K
        if to_context:
            self.context_end[touched] = self.head[touched]
        return rows

    def _placement(
        self, tasks_N: IntArray, lengths_N: IntArray
    ) -> tuple[tuple[IntArray, IntArray], IntArray]:
        """Sources of the steps, as (episode, step) indices, and their target rows."""
        order = np.argsort(tasks_N, kind="stable")
        before = np.cumsum(lengths_N[order]) - lengths_N[order]
        group_starts = np.searchsorted(tasks_N[order], tasks_N[order], side="left")
        offsets_N = np.empty_like(lengths_N)
        offsets_N[order] = before - before[group_starts]
        episode = np.repeat(np.arange(len(tasks_N)), lengths_N)
        ends = np.cumsum(lengths_N)
        step = np.arange(ends[-1] if len(ends) else 0) - (ends - lengths_N)[episode]
        counters = self.head[tasks_N[episode]] + offsets_N[episode] + step
        return (episode, step), tasks_N[episode] * self.capacity + counters % self.capacity

    def _evict(self, tasks: IntArray, added: IntArray) -> None:
        """Removes the oldest episodes of the tasks until `added` transitions fit."""
        tail = np.maximum(self.tail[tasks], self.head[tasks] + added - self.capacity)
        rows = tasks * self.capacity + tail % self.capacity
        # If the limit is inside an episode, the rest of that episode is removed too.
        cut = (tail < self.head[tasks]) & (self.step_index[rows] > 0)
        self.tail[tasks] = np.minimum(tail + np.where(cut, self.steps_left[rows] + 1, 0), self.head[tasks])
        self.context_start[tasks] = np.maximum(self.context_start[tasks], self.tail[tasks])
        self.context_end[tasks] = np.maximum(self.context_end[tasks], self.context_start[tasks])

    def clear_context(self, tasks: IntArray) -> None:
        """Empties the context view of the tasks; their transitions stay in the rings."""
        self.context_start[tasks] = self.head[tasks]
        self.context_end[tasks] = self.head[tasks]

    # -- sampling -------------------------------------------------------------------------------

    def _rows(self, tasks: IntArray, age: IntArray) -> IntArray:
        """Rows of transitions by their index, counted from each task's oldest transition."""
        tail = self.tail[tasks]
        start = tasks * self.capacity
        if age.ndim > tail.ndim:
            tail, start = tail[:, None], start[:, None]
        return start + (tail + age) % self.capacity

    def draw_tasks(self, count: int) -> IntArray:
        """Task indices drawn uniformly with replacement, shape (count,)."""
        return self.generator.integers(0, self.num_tasks, size=count)

    def sample_tasks_rows(self, tasks_T: IntArray, batch_size: int) -> IntArray:
        """Rows (T, B) drawn uniformly with replacement from each task's transitions.

        Raises:
            ValueError: when a task has none.
        """
        sizes_T = self.head[tasks_T] - self.tail[tasks_T]
        return self._rows(tasks_T, self._uniform(tasks_T, sizes_T, batch_size, "transitions"))

    def sample_tasks_batch(self, tasks_T: IntArray, batch_size: int) -> Batch:
        """Meta-batch with leading shape (T, B), uniform within each task; see `__getitem__`."""
        return self[self.sample_tasks_rows(tasks_T, batch_size)]

    def sample_context_rows(self, tasks_T: IntArray, batch_size: int) -> IntArray:
        """Rows (T, B) drawn uniformly with replacement from each task's context view.

        Raises:
            ValueError: when a task's context view is empty.
        """
        start_T = self.context_start[tasks_T]
        sizes_T = self.context_end[tasks_T] - start_T
        age = self._uniform(tasks_T, sizes_T, batch_size, "context")
        return self._rows(tasks_T, age + (start_T - self.tail[tasks_T])[:, None])

    def sample_recent_rows(self, tasks_T: IntArray, batch_size: int, last: int) -> IntArray:
        """Rows (T, B) drawn uniformly with replacement from each task's `last` newest transitions.

        Raises:
            ValueError: when a task has none.
        """
        held_T = self.head[tasks_T] - self.tail[tasks_T]
        sizes_T = np.minimum(held_T, last)
        age = self._uniform(tasks_T, sizes_T, batch_size, "transitions")
        return self._rows(tasks_T, age + (held_T - sizes_T)[:, None])

    @contextmanager
    def drawing_from(self, generator: np.random.Generator) -> Iterator[None]:
        """Context in which the buffer uses another generator; its own does not change."""
        own, self.generator = self.generator, generator
        try:
            yield
        finally:
            self.generator = own

    def _uniform(self, tasks: IntArray, sizes: IntArray, count: int, what: str) -> IntArray:
        if np.any(sizes <= 0):
            raise ValueError(f"task {int(tasks[sizes <= 0][0])} has no {what} in the buffer yet")
        draws = self.generator.random((len(sizes), count))
        ages: IntArray = (draws * sizes[:, None]).astype(np.int64)
        return ages

    def windows(self, rows: IntArray, length: int) -> tuple[IntArray, NDArray[np.bool_]]:
        """Windows of consecutive steps that end at the given rows and never include an earlier episode.

        Args:
            rows: last row of each window, any shape (...).
            length: number of steps S.

        Returns:
            Rows (..., S) in temporal order, and a mask (..., S) that is false before the start of the
            episode; there, the rows repeat the first step of the episode.
        """
        back = np.arange(length - 1, -1, -1)
        steps = self.step_index[rows][..., None].astype(np.int64)
        tasks, local = np.divmod(rows[..., None], self.capacity)
        window = tasks * self.capacity + (local - np.minimum(back, steps)) % self.capacity
        return window, back <= steps

    # -- state ----------------------------------------------------------------------------------

    def state_arrays(self) -> Arrays:
        """The state without that of the generator, as arrays; only rows in use are copied."""
        rows = self.sample_indices(0)
        arrays: Arrays = {key: self._meta[key][rows] for key in STEP_KEYS}
        arrays |= {f"info.{key}": self._meta["info"][key][rows] for key in self.info_keys}
        arrays |= {"step_index": self.step_index[rows], "steps_left": self.steps_left[rows]}
        return arrays | {
            "head": self.head.copy(),
            "tail": self.tail.copy(),
            "context_start": self.context_start.copy(),
            "context_end": self.context_end.copy(),
        }

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restores the result of `state_arrays` in a buffer of the same shape.

        Raises:
            ValueError: when the arrays belong to a buffer of another shape.
        """
        if arrays["head"].shape != self.head.shape:
            raise ValueError(f"the saved buffer has {len(arrays['head'])} tasks, this one {self.num_tasks}")
        for name in ("head", "tail", "context_start", "context_end"):
            getattr(self, name)[:] = arrays[name]
        rows = self.sample_indices(0)
        for key in STEP_KEYS:
            self._meta[key][rows] = arrays[key]
        for key in self.info_keys:
            self._meta["info"][key][rows] = arrays[f"info.{key}"]
        self.step_index[rows] = arrays["step_index"]
        self.steps_left[rows] = arrays["steps_left"]

    def generator_state(self) -> dict[str, Any]:
        """State of the generator, convertible to JSON."""
        return numpy_state(self.generator)

    def load_generator_state(self, state: dict[str, Any]) -> None:
        """Restores what `generator_state` returned."""
        restore_numpy_state(self.generator, state)
