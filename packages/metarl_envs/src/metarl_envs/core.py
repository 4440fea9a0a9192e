"""N simulations of one family, the common core of the single and the vector environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from metarl_envs.bodies.base import Body
from metarl_envs.families.assembly import assemble
from metarl_envs.families.family import Family
from metarl_envs.families.task import Task
from metarl_envs.simulation.headless import prefer_headless_rendering
from metarl_envs.simulation.motion import Motion

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Info = dict[str, NDArray[Any]]

# The bodies and MuJoCo are imported later, when the first simulation is built.
prefer_headless_rendering()

LARGEST = 2e10
"""Bound of every observation. MuJoCo considers a simulation unstable beyond 1e10, which ends the episode."""


def _all_finite(values: NDArray[Any]) -> bool:
    # The fastest exact test: unlike `.all()`, counting true values has no Python layer.
    return bool(np.count_nonzero(np.isfinite(values)) == values.size)


def restored_generator(state: Any) -> np.random.Generator:
    """Returns a generator with a saved `generator.bit_generator.state`.

    Raises:
        ValueError: it is not a state of NumPy's PCG64, which Gymnasium uses.
    """
    bits = np.random.PCG64(0)
    try:
        bits.state = state
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError("a generator's state must be a saved state of NumPy's PCG64") from error
    return np.random.Generator(bits)


def state_part(state: Mapping[str, Any], key: str) -> Any:
    """Returns a part of a saved state.

    Raises:
        ValueError: it is missing.
    """
    if key not in state:
        raise ValueError(f"the state lacks {key!r}: it must come from get_state()")
    return state[key]


def restored_seed(state: Mapping[str, Any]) -> int | None:
    """Returns the seed of Gymnasium's generator in a saved state.

    Raises:
        ValueError: it is none; -1 stands for a generator that was given without its seed.
    """
    seed = state_part(state, "np_random_seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < -1):
        raise ValueError(f"a state's np_random_seed must be None or an integer of at least -1, got {seed!r}")
    return seed


def state_array(
    state: Mapping[str, Any], key: str, shape: tuple[int, ...], dtype: type[np.generic], owner: str
) -> NDArray[Any]:
    """Returns a copy of an array of a saved state.

    Args:
        state: the saved state.
        key: the array's name.
        shape: its required shape.
        dtype: its type.
        owner: description of the environment, for messages.

    Raises:
        ValueError: it is missing, has another shape or kind of values, or is not finite.
    """
    given = np.array(state_part(state, key))
    kinds = {"b": "b", "i": "iu"}.get(np.dtype(dtype).kind, "iuf")
    if given.size and given.dtype.kind not in kinds:
        what = {"b": "booleans", "iu": "whole numbers", "iuf": "numbers"}[kinds]
        raise ValueError(
            f"a state's {key} must be {what} in the range of {np.dtype(dtype)}, got {given.dtype}"
        )
    with np.errstate(over="ignore"):
        array = given.astype(dtype)
    if array.shape != shape:
        raise ValueError(f"the state does not fit {owner}: its {key} has shape {array.shape}, not {shape}")
    if not _all_finite(array):
        raise ValueError(f"a state must be finite, but {key} has NaN or infinity")
    return array


class Core:
    """N simulations of one family, each with its own task, step counter and generator.

    It neither resets automatically nor limits time; the environments that use it do.

    Attributes:
        family: the family.
        assembly: body and objective, and what they read of a task.
        num: the number of simulations N.
        observation: the current observations `(N, O)`, float32.
        elapsed: steps since each simulation's reset, `(N,)`.
        all_well: whether the last step had neither a fall nor a divergence.
        generators: one per simulation; every random number of simulation i comes from generator i.
    """

    def __init__(
        self,
        family: Family,
        num: int,
        *,
        tasks: Sequence[Task],
        observe_task: bool,
        num_threads: int,
        arguments: Mapping[str, Any],
        own_arguments: tuple[str, ...] = (),
    ) -> None:
        """Builds the simulations.

        Args:
            family: the family.
            num: number of simulations.
            tasks: one per simulation.
            observe_task: whether to append the task's parameters to the observation.
            num_threads: number of threads for stepping.
            arguments: the arguments of the family; unknown ones are errors.
            own_arguments: other arguments of the environment, for the message of that error.
        """
        self.family = family
        self.num = num
        assembly = assemble(family, num, num_threads, arguments, own_arguments)
        self.assembly = assembly
        self.body: Body = assembly.body
        self.objective = assembly.objective
        if self.body.model is not None:
            from metarl_envs.families.models import check_model  # the point families need no MuJoCo

            check_model(family, self.body.model, assembly.arguments)
        self.observe_task = observe_task
        self._body_size = sum(row.size for row in self.body.observations)
        parameters = len(family.parameter_names)
        size = self._body_size + (parameters if observe_task else 0)
        self.observation_space = Box(-LARGEST, LARGEST, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, (sum(r.size for r in self.body.actions),), np.float32)
        self.observation = np.zeros((num, size), dtype=np.float32)
        self.elapsed: NDArray[np.int64] = np.zeros(num, dtype=np.int64)
        self.generators: list[np.random.Generator] = []
        self.all_well = True
        self._everyone = np.arange(num)
        self._tasks: list[Task] = list(tasks)
        self._vectors = np.zeros((num, parameters))
        self._body_vectors = assembly.body_part.read(self._vectors)
        self._objective_vectors = assembly.objective_part.read(self._vectors)
        self._task_ids = np.zeros(num, dtype=np.int64)
        self.set_tasks(self._everyone, tasks)
        self._position = self.body.position()
        self._never: Mask = np.zeros(num, dtype=np.bool_)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The current task of every simulation."""
        return tuple(self._tasks)

    def set_tasks(self, ids: NDArray[np.int64], tasks: Sequence[Task]) -> None:
        """Changes the tasks of simulations, from their next step on.

        Args:
            ids: the simulations, `(n,)`.
            tasks: their tasks, n of them.
        """
        for i, task in zip(ids.tolist(), tasks, strict=True):
            self._tasks[i] = task
            self._vectors[i] = task.parameters
            self._task_ids[i] = task.index
        self._objective_vectors[ids] = self.assembly.objective_part.read(self._vectors[ids])
        if not self.assembly.body_part.empty:
            self._body_vectors[ids] = self.assembly.body_part.read(self._vectors[ids])
            self.body.set_tasks(ids, self._body_vectors[ids])
        if self.observe_task:
            self.observation[ids, self._body_size :] = self._vectors[ids]

    def reset(self, ids: NDArray[np.int64] | None = None) -> None:
        """Starts an episode in some simulations (None: in all).

        Raises:
            RuntimeError: the generators have not been set.
        """
        if len(self.generators) != self.num:
            raise RuntimeError("the generators must be set before the first reset")
        ids = self._everyone if ids is None else ids
        self.body.start(ids, [self._start_generator(i) for i in ids.tolist()])
        self.elapsed[ids] = 0
        fresh = self._observe()
        self.observation[ids] = fresh[ids]
        self._position[ids] = self.body.position()[ids]

    def _start_generator(self, i: int) -> np.random.Generator:
        """Returns the generator for the start of simulation i: its own, or one derived from its task."""
        task = self._tasks[i]
        if task.split not in self.family.fixed_starts:
            return self.generators[i]
        # The same in every episode of the task, in any environment.
        digest = hashlib.sha256(json.dumps(task.to_dict(), sort_keys=True).encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

    def _observe(self) -> NDArray[np.float32]:
        observation = np.empty(self.observation.shape, dtype=np.float32)
        self.body.write_observations(observation)
        if self.observe_task:
            observation[:, self._body_size :] = self._vectors
        return observation

    def check_actions(self, actions: Any, shape: tuple[int, ...]) -> Array:
        """Checks actions given by the user.

        Args:
            actions: the given actions.
            shape: the required shape.

        Returns:
            The actions as float64, clipped to [-1, 1].

        Raises:
            ValueError: the shape is wrong, or the values are not finite numbers.
        """
        try:
            given = np.asarray(actions)
        except ValueError as error:  # rows of different lengths
            raise ValueError(f"an action must be an array of numbers of shape {shape}") from error
        if given.dtype.kind not in "fiu":
            raise ValueError(f"an action must be an array of numbers of shape {shape}, got {given.dtype}")
        if given.shape != shape:
            raise ValueError(f"an action must have shape {shape}, got {given.shape}")
        result = given.astype(np.float64)
        # Most actions come from a bounded policy; then one comparison shows that they are finite and valid.
        if np.count_nonzero(np.abs(result) <= 1.0) == result.size:
            return result
        if not _all_finite(result):
            raise ValueError("an action must be finite, got NaN or infinity")
        return np.clip(result, -1.0, 1.0)

    def step(self, actions: Array, mask: Mask | None = None) -> tuple[Array, Mask, Info]:
        """Advances simulations by one step; the new observations are in `observation`.

        Args:
            actions: `(N, A)`, checked.
            mask: which simulations advance; None for all. The others keep their observation and get
                reward 0.

        Returns:
            rewards `(N,)`, terminated `(N,)`, and the info arrays.
        """
        body, objective = self.body, self.objective
        actions = body.actuate(actions, self._body_vectors)
        if mask is None:
            body.advance(actions, None)
            self.elapsed += 1
        else:
            body.advance(actions, np.flatnonzero(mask))
            self.elapsed += mask
        position = body.position()
        velocity = body.velocity(self._position, position)
        observation = self._observe()
        diverged, fallen = body.diverged, body.fallen()
        motion = Motion(position, velocity, actions, body.contact_forces(), fallen)
        outcome = objective.judge(motion, self._objective_vectors)
        terms = objective.terms(outcome, motion)
        info: Info = dict(zip(objective.term_names, terms, strict=True))
        if outcome.extras is not None:
            info.update(outcome.extras)
        info.update(body.info(position, velocity))
        info["success"] = outcome.success

        if objective.ends_on_success and np.count_nonzero(outcome.success):
            fallen = outcome.success.copy() if fallen is None else fallen | outcome.success
        self.all_well = diverged is None and fallen is None
        if mask is not None or diverged is not None:
            ended = np.zeros(self.num, dtype=np.bool_) if diverged is None else diverged
            # Simulations that did not advance keep their values; diverged ones keep the last finite ones.
            still = ended if mask is None else ended | ~mask
            diverged = ended if mask is None else ended & mask
            observation[still] = self.observation[still]
            position[still] = self._position[still]
            resting = body.info(position, np.zeros_like(velocity))
            for name, values in info.items():
                values[still] = resting[name][still] if name in resting else 0
        reward = terms[0] + terms[1] if len(terms) > 1 else terms[0].copy()
        for term in terms[2:]:
            reward += term
        terminated = np.zeros(self.num, dtype=np.bool_) if diverged is None else diverged
        info["diverged"] = terminated.copy()
        if fallen is not None:
            terminated = terminated | (fallen if mask is None else fallen & mask)
        info["task_id"] = self._task_ids.copy()
        self.observation = observation
        self._position = position
        return reward, terminated, info

    def reset_info(self) -> Info:
        """Returns the info after a reset: zero rewards, no success, current positions."""
        position = self.body.position()
        info: Info = {name: np.zeros(self.num) for name in self.objective.term_names}
        info |= {name: np.zeros(self.num) for name in self.objective.extra_info}
        info |= self.body.info(position, np.zeros_like(position))
        info["success"] = self._never.copy()
        info["diverged"] = self._never.copy()
        info["task_id"] = self._task_ids.copy()
        return info

    @property
    def description(self) -> str:
        """Description of the environment, for messages about states."""
        return f"{self.family.id} with {self.num} simulations and these arguments"

    def get_state(self) -> dict[str, Any]:
        """Returns the complete state as arrays and JSON values."""
        return {
            "physics": self.body.get_state(),
            "observation": self.observation.copy(),
            "position": self._position.copy(),
            "elapsed": self.elapsed.copy(),
            "tasks": [task.to_dict() for task in self._tasks],
            "generators": [
                self.generators[i].bit_generator.state if self.generators else None for i in range(self.num)
            ],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `get_state`, bit for bit; changes nothing if there is an error.

        Raises:
            ValueError: the state has another family, layout or number of simulations, or is damaged.
        """
        num, owner = self.num, self.description
        physics = state_array(state, "physics", self.body.get_state().shape, np.float64, owner)
        observation = state_array(state, "observation", self.observation.shape, np.float32, owner)
        position = state_array(state, "position", self._position.shape, np.float64, owner)
        elapsed = state_array(state, "elapsed", (num,), np.int64, owner)
        if (elapsed < 0).any():
            raise ValueError(f"a state's elapsed steps must not be negative, got {elapsed.tolist()}")
        given, saved = state_part(state, "tasks"), state_part(state, "generators")
        if not isinstance(given, list | tuple) or not isinstance(saved, list | tuple):
            raise ValueError("a state's tasks and generators must be lists")
        if not all(isinstance(task, Mapping) for task in given):
            raise ValueError("a state's tasks must be dicts, as Task.to_dict() returns them")
        tasks = [self.family.resolve_task(task, "train") for task in given]
        if len(tasks) != num or len(saved) != num:
            raise ValueError(
                f"a state of {owner} must have a task and a generator for each simulation, got"
                f" {len(tasks)} and {len(saved)}"
            )
        # There are no generators before the first reset.
        unused = all(one is None for one in saved)
        generators = [] if unused else [restored_generator(one) for one in saved]
        self.set_tasks(self._everyone, tasks)
        self.body.set_state(physics)
        self.observation = observation
        self.elapsed = elapsed
        self.generators = generators
        self._position = position

    def frame(self, index: int, height: int, width: int) -> NDArray[np.uint8]:
        """Draws one simulation with its task marked, `(height, width, 3)`."""
        marker = self.objective.marker(
            self._position[index], self._objective_vectors[index], float(self.elapsed[index]) * self.body.dt
        )
        return self.body.frame(index, marker, height, width)

    def model_checksum(self) -> str | None:
        """Returns the checksum of the compiled model, or None for a body without one."""
        if self.body.model is None:
            return None
        from metarl_envs.families.models import model_checksum

        # A task may have changed the model of this body, so a new one is built.
        return model_checksum(self.assembly.make_body(1, 1).model)

    def close(self) -> None:
        """Frees the simulations."""
        self.body.close()


def build_core(family: Family, **arguments: Any) -> Core:
    """Returns one simulation of a family's first training task, to inspect its properties."""
    return Core(
        family,
        1,
        tasks=[family.task("train", 0)],
        observe_task=False,
        num_threads=1,
        arguments=arguments,
    )
