"""The single environment, which uses the core with one simulation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metarl_envs.checks import (
    FRAME_SIZE,
    RENDER_MODES,
    check_flag,
    check_not_closed,
    check_render_mode,
    check_seed,
    checked_options,
)
from metarl_envs.core import Core, restored_generator, restored_seed, state_array, state_part
from metarl_envs.families.family import Family
from metarl_envs.families.specs import checked_family
from metarl_envs.families.task import Task


class MetaEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One simulation of one family, with one task at a time.

    `gymnasium.make("MetaAnt-Goal-v0")` creates one, wrapped with the family's time limit. A plain `reset()`
    keeps the task; `reset(options={"task": ...})` or `set_task` changes it.

    Attributes:
        family: the family.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        family: str | Family,
        *,
        split: str = "train",
        task: Any = None,
        observe_task: bool = False,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        """Builds the simulation.

        Args:
            family: a family or its id.
            split: split of the default task and of task indices.
            task: index into the split, `Task` or its dict; None is the first task.
            observe_task: whether to append the task's parameters to the observation, for oracles.
            render_mode: None or `rgb_array`.
            **arguments: the arguments of the family, see its page.

        Raises:
            ValueError: an argument has a value that is not allowed; the message says what is.
            TypeError: the family has no such argument.
        """
        self.family = checked_family(family)
        check_flag("observe_task", observe_task)
        check_render_mode(render_mode)
        self._arguments = dict(arguments, split=split, observe_task=observe_task, render_mode=render_mode)
        self.split = self.family.split(split).name
        self._core = Core(
            self.family,
            1,
            tasks=[self.family.resolve_task(0 if task is None else task, split)],
            observe_task=observe_task,
            num_threads=1,
            arguments=arguments,
            own_arguments=("split", "task", "observe_task", "render_mode"),
        )
        self.observation_space = self._core.observation_space
        self.action_space = self._core.action_space
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self._core.body.dt)}
        self._ended = False
        self._closed = False

    def get_task(self) -> Task:
        """Returns the current task."""
        return self._core.tasks[0]

    def set_task(self, task: Any) -> None:
        """Changes the task, from the next step on: an index into the split, a `Task`, or its dict."""
        check_not_closed(self._closed)
        self._core.set_tasks(np.zeros(1, np.int64), [self.family.resolve_task(task, self.split)])

    def sample_tasks(self, n: int) -> tuple[Task, ...]:
        """Draws `n` tasks from the split's distribution, not from the table, with `np_random`."""
        return self.family.sample_tasks(n, self.np_random, self.split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seeds `np_random`; None continues it.
            options: `task` changes the task.

        Returns:
            The observation `(O,)` and the info.

        Raises:
            ValueError: an option is unknown or has a value that is not allowed.
        """
        check_not_closed(self._closed)
        given = checked_options(options)
        task = given.pop("task", None)
        if given:
            raise ValueError(f"the only option is 'task', got {', '.join(map(repr, given))}")
        chosen = None if task is None else self.family.resolve_task(task, self.split)
        check_seed(seed)
        super().reset(seed=seed)
        if chosen is not None:
            self.set_task(chosen)
        self._core.generators = [self.np_random]
        self._core.reset()
        self._ended = False
        return self._core.observation[0].copy(), _first(self._core.reset_info())

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Advances by one step; the wrapper applies the time limit.

        Args:
            action: `(A,)`; numbers outside [-1, 1] are clipped.

        Returns:
            The observation, the reward, terminated, False, and the info.

        Raises:
            ValueError: the action has another shape, or is not finite.
            RuntimeError: there was no reset yet, the episode has terminated, or the environment is
                closed.
        """
        check_not_closed(self._closed)
        core = self._core
        if not core.generators or self._ended:
            raise RuntimeError("call reset() before step(): no episode is running")
        checked = core.check_actions(action, self.action_space.shape or ())
        reward, terminated, info = core.step(checked[None])
        self._ended = bool(terminated[0])
        return core.observation[0].copy(), float(reward[0]), self._ended, False, _first(info)

    def render(self) -> NDArray[np.uint8] | None:
        """Returns a frame `(480, 480, 3)` with the task marked; None without a render mode."""
        check_not_closed(self._closed)
        return None if self.render_mode is None else self._core.frame(0, *FRAME_SIZE)

    def close(self) -> None:
        """Frees the simulation; using the environment afterwards is an error."""
        if not self._closed:
            self._closed = True
            self._core.close()

    def model_checksum(self) -> str | None:
        """Returns the checksum of the compiled model, or None for a family without one."""
        return self._core.model_checksum()

    def get_state(self) -> dict[str, Any]:
        """Returns the complete state: physics, step counter, task, generator.

        The counter of the time limit belongs to the wrapper of this environment; pickling the wrapped
        environment includes both.
        """
        check_not_closed(self._closed)
        return {
            **self._core.get_state(),
            "ended": np.array([self._ended]),
            "np_random": self.np_random.bit_generator.state,
            "np_random_seed": self._np_random_seed,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `get_state`, bit for bit.

        Raises:
            ValueError: the state does not fit this environment.
        """
        check_not_closed(self._closed)
        ended = state_array(state, "ended", (1,), np.bool_, self._core.description)
        generator = restored_generator(state_part(state, "np_random"))
        seed = restored_seed(state)
        self._core.set_state(state)
        self._ended = bool(ended[0])
        self._np_random, self._np_random_seed = generator, seed
        if self._core.generators:
            self._core.generators = [self._np_random]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the specification and the exact state, because a batch of simulations cannot be pickled."""
        saved = None if self._closed else self.get_state()
        return _restore, (type(self), self.family.id, self._arguments, self.spec, saved)

    def __deepcopy__(self, memo: dict[int, Any]) -> MetaEnv:
        """Copies in the same way as pickling."""
        function, arguments = self.__reduce__()
        result: MetaEnv = function(*copy.deepcopy(arguments, memo))
        return result


def _first(info: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Returns the info of simulation 0 as plain Python numbers."""
    return {key: values.item() for key, values in info.items()}


def _restore(
    cls: type[MetaEnv],
    family_id: str,
    arguments: dict[str, Any],
    spec: Any,
    state: Mapping[str, Any] | None,
) -> MetaEnv:
    env = cls(family_id, **arguments)
    env.spec = spec
    if state is None:
        env.close()
    else:
        env.set_state(state)
    return env
