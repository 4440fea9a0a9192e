"""The native vector environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl_envs.checks import (
    FRAME_SIZE,
    MOST_SIMULATIONS,
    MOST_THREADS,
    RENDER_MODES,
    available_cores,
    check_count,
    check_flag,
    check_not_closed,
    check_render_mode,
    checked_autoreset_mode,
    checked_mask,
    checked_options,
    spread_seeds,
)
from metarl_envs.core import (
    Array,
    Core,
    Info,
    Mask,
    restored_generator,
    restored_seed,
    state_array,
    state_part,
)
from metarl_envs.families.family import Family
from metarl_envs.families.specs import checked_family
from metarl_envs.families.task import Task


class MetaVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """N simulations of one family, each with its own task, stepped on native threads.

    `gymnasium.make_vec(id, num_envs=N)` creates one. With the same seeds and tasks, it returns the same
    numbers as Gymnasium's sync and async vector environments over `MetaEnv`, bit for bit and for any number
    of threads.

    Attributes:
        family: the family.
        autoreset_mode: when a simulation that has ended is reset; also in `metadata`.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        family: str | Family,
        num_envs: int = 1,
        *,
        split: str = "train",
        task: Any = None,
        tasks: Sequence[Any] | None = None,
        observe_task: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        num_threads: int | None = None,
        **arguments: Any,
    ) -> None:
        """Builds the simulations.

        Args:
            family: a family or its id.
            num_envs: the number of simulations N.
            split: split of the default tasks and of task indices.
            task: one task for all simulations (index, `Task` or its dict).
            tasks: one task per simulation. By default simulation i has task i modulo the split's size.
            observe_task: whether to append the task's parameters to the observation, for oracles.
            render_mode: None or `rgb_array`.
            max_episode_steps: the time limit; by default the family's horizon.
            autoreset_mode: when a simulation that has ended is reset. With `DISABLED`, the caller resets it
                with `options={"reset_mask": ...}` or excludes it from `step` with a mask.
            num_threads: number of threads for stepping; by default all cores, and 1 for a single simulation.
            **arguments: the arguments of the family, see its page.

        Raises:
            ValueError: an argument has a value that is not allowed; the message says what is.
            TypeError: the family has no such argument.
        """
        self.family = checked_family(family)
        check_flag("observe_task", observe_task)
        check_count("num_envs", num_envs, MOST_SIMULATIONS)
        limit = self.family.horizon if max_episode_steps is None else max_episode_steps
        check_count("max_episode_steps", limit)
        threads = num_threads
        if threads is None:
            threads = 1 if num_envs == 1 else available_cores()
        check_count("num_threads", threads, MOST_THREADS)
        if task is not None and tasks is not None:
            raise ValueError("give either task or tasks, not both")
        check_render_mode(render_mode)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        own = dict(
            num_envs=num_envs,
            split=split,
            observe_task=observe_task,
            render_mode=render_mode,
            max_episode_steps=limit,
            autoreset_mode=self.autoreset_mode,
            num_threads=num_threads,
        )
        self._arguments = {**arguments, **own}
        self.split = self.family.split(split).name
        table = self.family.tasks(split)
        chosen: Sequence[Task] = [table[i % len(table)] for i in range(num_envs)]
        if task is not None or tasks is not None:
            chosen = self._resolve(task if tasks is None else tasks, num_envs)
        self._core = Core(
            self.family,
            num_envs,
            tasks=chosen,
            observe_task=observe_task,
            num_threads=min(threads, num_envs),
            arguments=arguments,
            own_arguments=(*own, "task", "tasks"),
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = self._core.observation_space
        self.single_action_space = self._core.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._action_shape = (num_envs, *(self.single_action_space.shape or ()))
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "render_fps": round(1.0 / self._core.body.dt),
        }
        self._limit = limit
        self._started: Mask = np.zeros(num_envs, dtype=np.bool_)
        self._note_ended(np.zeros(num_envs, dtype=np.bool_))
        self._mask_keys: list[str] = []
        self._all: Mask = np.ones(num_envs, dtype=np.bool_)

    # Tasks

    def _resolve(self, tasks: Any, count: int) -> list[Task]:
        """Converts one task, or a sequence of `count` tasks, to `count` tasks."""
        if isinstance(tasks, Sequence | np.ndarray) and not isinstance(tasks, str):
            if len(tasks) != count:
                raise ValueError(f"give one task or {count} of them, got {len(tasks)}")
            return [self.family.resolve_task(task, self.split) for task in tasks]
        return [self.family.resolve_task(tasks, self.split)] * count

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The current task of every simulation."""
        return self._core.tasks

    def get_task(self) -> tuple[Task, ...]:
        """Returns the current task of every simulation."""
        return self._core.tasks

    def set_task(self, task: Any) -> None:
        """Sets the same task for every simulation: an index into the split, a `Task`, or its dict."""
        self.set_tasks(task)

    def set_tasks(self, tasks: Any, mask: Mask | None = None) -> None:
        """Changes the tasks of simulations, from their next step on.

        Args:
            tasks: one task for all, or a sequence with one per selected simulation.
            mask: which simulations, `(N,)` of bool; None for all.

        Raises:
            ValueError: a task is not of this family, or the number of tasks is wrong.
        """
        check_not_closed(self.closed)
        ids = np.flatnonzero(self._all if mask is None else checked_mask("mask", mask, self.num_envs))
        self._core.set_tasks(ids, self._resolve(tasks, len(ids)))

    def sample_tasks(self, n: int) -> tuple[Task, ...]:
        """Draws `n` tasks from the split's distribution, not from the table, with `np_random`."""
        return self.family.sample_tasks(n, self.np_random, self.split)

    # Gymnasium

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], Info]:
        """Starts an episode in every simulation, or in some.

        Args:
            seed: None continues every generator; an integer seeds simulation i with `seed + i`; a
                sequence contains one seed per simulation (None keeps the generator).
            options: `task` changes the tasks (one, or a sequence with one per reset simulation);
                `reset_mask`, `(N,)` of bool, selects the simulations.

        Returns:
            All observations `(N, O)`, and the info arrays, whose masks mark the simulations that were reset.

        Raises:
            ValueError: an option is unknown or has a value that is not allowed.
        """
        check_not_closed(self.closed)
        given = checked_options(options)
        mask = given.pop("reset_mask", None)
        selected = self._all if mask is None else checked_mask("reset_mask", mask, self.num_envs)
        task = given.pop("task", None)
        if given:
            raise ValueError(f"options may be 'task' and 'reset_mask', got {', '.join(map(repr, given))}")
        if not selected.any():
            raise ValueError("reset_mask must select at least one simulation")
        if mask is not None and not (self._started | selected).all():
            raise RuntimeError("the first reset must include all simulations")
        ids = np.flatnonzero(selected)
        chosen = None if task is None else self._resolve(task, len(ids))
        self._seed(seed, selected)
        if chosen is not None:
            self._core.set_tasks(ids, chosen)
        self._core.reset(None if mask is None else ids)
        self._started = self._started | selected
        self._note_ended(self._ended & ~selected)
        return self._core.observation.copy(), self._info(self._core.reset_info(), selected)

    def _seed(self, seed: int | Sequence[int | None] | None, selected: Mask) -> None:
        """Spreads seeds over the simulations as Gymnasium's vector environments do."""
        seeds = spread_seeds(seed, self.num_envs)
        if seed is not None and not isinstance(seed, Sequence | np.ndarray):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
        generators: Sequence[np.random.Generator | None] = self._core.generators or [None] * self.num_envs
        self._core.generators = [
            seeding.np_random(s)[0] if old is None or (s is not None and selected[i]) else old
            for i, (old, s) in enumerate(zip(generators, seeds, strict=True))
        ]

    def step(
        self, actions: NDArray[Any], mask: Mask | None = None
    ) -> tuple[NDArray[np.float32], Array, Mask, Mask, Info]:
        """Advances the simulations by one step.

        Args:
            actions: `(N, A)`; numbers outside [-1, 1] are clipped.
            mask: which simulations advance, `(N,)` of bool; None for all. The rows of the others repeat
                their observation, with reward 0 and both end flags false.

        Returns:
            Observations `(N, O)`, rewards `(N,)`, terminated `(N,)`, truncated `(N,)`, and info arrays.

        Raises:
            ValueError: the actions or the mask have another shape, or are not finite.
            RuntimeError: a simulation that ended was neither reset nor masked out (mode `DISABLED`),
                there was no reset yet, or the environment is closed.
        """
        check_not_closed(self.closed)
        if not self._core.generators:
            raise RuntimeError("call reset() before step()")
        checked = self._core.check_actions(actions, self._action_shape)
        if mask is not None:
            mask = checked_mask("mask", mask, self.num_envs)
        resetting: Mask | None = None
        if self._any_ended:
            if self.autoreset_mode is AutoresetMode.DISABLED:
                stepped = self._ended if mask is None else self._ended & mask
                if stepped.any():
                    raise RuntimeError(
                        f"simulations {np.flatnonzero(stepped).tolist()} have ended: reset them with"
                        " options={'reset_mask': ...} or leave them out with step(actions, mask)"
                    )
            else:
                resetting = self._ended if mask is None else self._ended & mask
                mask = ~resetting if mask is None else mask & ~resetting
        core = self._core
        reward, terminated, info = core.step(checked, mask)
        self._steps_left -= 1
        if self._steps_left > 0 and mask is None and core.all_well:
            # The common case: no episode can have ended, so no comparison is needed.
            truncated = np.zeros(self.num_envs, dtype=np.bool_)
            info = self._info(info, self._all)
            return core.observation.copy(), reward, terminated, truncated, info
        truncated = core.elapsed >= self._limit
        if mask is not None:
            truncated &= mask
        ended = terminated | truncated
        final: Info = {}
        if resetting is not None:
            self._restart(resetting, info)
            ended |= self._ended & ~resetting
        if self.autoreset_mode is AutoresetMode.SAME_STEP and np.count_nonzero(ended):
            final = self._final(ended, info)
            self._restart(ended, info)
            ended = np.zeros_like(ended)
        elif self.autoreset_mode is AutoresetMode.DISABLED and self._any_ended:
            ended |= self._ended
        self._note_ended(ended)
        out = self._info(info, self._all)
        out.update(final)
        return core.observation.copy(), reward, terminated, truncated, out

    def _note_ended(self, ended: Mask) -> None:
        """Stores which episodes have ended, and for how many steps the time limit cannot end any."""
        self._ended = ended
        self._any_ended = bool(np.count_nonzero(ended))
        self._steps_left = 0 if self._any_ended else self._limit - int(self._core.elapsed.max())

    def _restart(self, which: Mask, info: Info) -> None:
        """Resets simulations within a step and writes their reset info into `info`."""
        self._core.reset(np.flatnonzero(which))
        for key, values in self._core.reset_info().items():
            info[key][which] = values[which]

    def _final(self, ended: Mask, info: Info) -> Info:
        """Returns the last observations and infos of simulations that are about to be reset."""
        observations = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            observations[i] = self._core.observation[i].copy()
        last: Info = {}
        for key, values in info.items():
            last[key] = np.where(ended, values, np.zeros_like(values))
            last[f"_{key}"] = ended.copy()
        return {
            "final_obs": observations,
            "_final_obs": ended.copy(),
            "final_info": last,  # type: ignore[dict-item]  # Gymnasium nests this one
            "_final_info": ended.copy(),
        }

    def _info(self, info: Info, present: Mask) -> Info:
        """Adds masks as in Gymnasium's vector infos."""
        if present is not self._all:
            info = {k: np.where(present, v, np.zeros_like(v)) for k, v in info.items()}
        if len(info) != len(self._mask_keys):
            self._mask_keys = [f"_{key}" for key in info]
        info.update(dict.fromkeys(self._mask_keys, present.copy()))
        return info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Returns a frame `(480, 480, 3)` of every simulation with its task marked; None without a mode."""
        check_not_closed(self.closed)
        if self.render_mode is None:
            return None
        return tuple(self._core.frame(i, *FRAME_SIZE) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the simulations and their threads."""
        self._core.close()

    # State

    def model_checksum(self) -> str | None:
        """Returns the checksum of the compiled model, or None for a family without one."""
        return self._core.model_checksum()

    def get_state(self) -> dict[str, Any]:
        """Returns the complete state: physics, step counters, tasks, generators.

        Returns:
            NumPy arrays and JSON values, see `docs/design.md`. `set_state` restores them bit for bit, also
            in another environment or process.
        """
        check_not_closed(self.closed)
        return {
            **self._core.get_state(),
            "ended": self._ended.copy(),
            "started": self._started.copy(),
            "np_random": self.np_random.bit_generator.state,
            "np_random_seed": self._np_random_seed,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `get_state`.

        Raises:
            ValueError: the state does not fit this environment.
        """
        check_not_closed(self.closed)
        ended = state_array(state, "ended", (self.num_envs,), np.bool_, self._core.description)
        started = state_array(state, "started", (self.num_envs,), np.bool_, self._core.description)
        generator = restored_generator(state_part(state, "np_random"))
        seed = restored_seed(state)
        self._core.set_state(state)
        self._note_ended(ended)
        self._started = started
        self._np_random, self._np_random_seed = generator, seed

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the specification and the exact state, because a batch of simulations cannot be pickled."""
        saved = None if self.closed else self.get_state()
        return _restore, (type(self), self.family.id, self._arguments, self.spec, saved)

    def __deepcopy__(self, memo: dict[int, Any]) -> MetaVectorEnv:
        """Copies in the same way as pickling."""
        function, arguments = self.__reduce__()
        result: MetaVectorEnv = function(*copy.deepcopy(arguments, memo))
        return result


def _restore(
    cls: type[MetaVectorEnv],
    family_id: str,
    arguments: dict[str, Any],
    spec: Any,
    state: Mapping[str, Any] | None,
) -> MetaVectorEnv:
    env = cls(family_id, **arguments)
    env.spec = spec
    if state is None:
        env.close()
    else:
        env.set_state(state)
    return env
