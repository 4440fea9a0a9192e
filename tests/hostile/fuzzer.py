"""Random calls of an environment, valid and not, with what must hold after each.

- A valid call gives finite observations and rewards in their spaces, and infos with the same keys.
- Another call gives a `ValueError`, `TypeError` or `RuntimeError` that this package has raised, not a library
  or Python below it, and changes nothing.
- Nothing is printed, written or crashes; the test looks at that.
"""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

import metarl_envs
from metarl_envs import MetaEnv, MetaVectorEnv, Task

PACKAGE = str(Path(metarl_envs.__file__).parent)
ALLOWED = (ValueError, TypeError, RuntimeError)
#: No argument of any method.
WRONG = ("a", b"ab", -1, 1.5, 10**400, float("nan"), float("inf"), {"a": 1}, [[1], [1, 2]], object(), True)


class ViolationError(AssertionError):
    """Something that must not happen; the message says how to repeat it."""


def same(a: Any, b: Any) -> bool:
    """Equality of states, bit for bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


class Fuzzer:
    """Calls one environment at random.

    Args:
        env_id: the family.
        num: number of simulations of a vector environment, or 0 for a single one.
        seed: seed of the calls.
    """

    def __init__(self, env_id: str, num: int, seed: int) -> None:
        self.rng = np.random.default_rng([seed, num, *env_id.encode()])
        self.label = f"Fuzzer({env_id!r}, {num}, {seed})"
        self.family, self.num = metarl_envs.family(env_id), num
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Makes an environment with random arguments."""
        rng = self.rng
        arguments: dict[str, Any] = {
            name: argument.choices[rng.integers(len(argument.choices))]
            for name, argument in self.family.arguments.items()
        }
        arguments["split"] = sorted(self.family.splits)[rng.integers(len(self.family.splits))]
        arguments["observe_task"] = bool(rng.integers(2))
        self.env: Any
        if self.num:
            self.env = MetaVectorEnv(
                self.family,
                self.num,
                num_threads=int(rng.integers(1, 3)),
                max_episode_steps=int(rng.integers(1, 30)),
                autoreset_mode=list(AutoresetMode)[rng.integers(3)],
                **arguments,
            )
        else:
            self.env = MetaEnv(self.family, **arguments)
        self.keys: set[str] = set()
        self.saved: list[dict[str, Any]] = []

    def run(self, calls: int) -> None:
        """Makes random calls."""
        names = ("step",) * 10 + ("reset",) * 2 + ("tasks", "state", "wrong", "wrong", "wrong", "damaged")
        for _ in range(calls):
            self.count += 1
            name = names[self.rng.integers(len(names))]
            if self.rng.random() < 0.002:
                name = "renewed"
            try:
                getattr(self, name)()
            except ViolationError:
                raise
            except Exception as error:
                self.fail(f"{name} raised {error!r}\n{traceback.format_exc()}")

    def fail(self, text: str) -> None:
        """Reports a violation."""
        raise ViolationError(f"{self.label}, call {self.count}: {text}")

    # -- valid calls ---------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether all simulations can be stepped."""
        state = self.env.get_state()
        if self.num:
            disabled = self.env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
            return bool(state["started"].all()) and not (disabled and state["ended"].any())
        return bool(self.env._core.generators) and not state["ended"].any()

    def actions(self) -> Any:
        """Numbers of several sizes and types."""
        scale = (0.0, 1.0, 1.0, 1.0, 3.0, 1e6, 1e300)[self.rng.integers(7)]
        drawn = self.rng.standard_normal(self.env.action_space.shape) * scale
        kind = self.rng.integers(4)
        if kind == 0:
            return drawn.tolist()
        return drawn.astype((np.float64, np.float32, np.float64)[kind - 1]) if scale < 1e30 else drawn

    def step(self) -> None:
        """A step, or a refusal because an episode has ended."""
        if not self.ready:
            self.refused(lambda: self.env.step(np.zeros(self.env.action_space.shape)))
            self.check(*self.env.reset())
            return
        obs, reward, terminated, truncated, info = self.env.step(self.actions())
        if not np.isfinite(reward).all():
            self.fail(f"reward {reward}")
        for flag in (terminated, truncated):
            if np.asarray(flag).dtype != np.bool_:
                self.fail(f"an end is {flag!r}")
        self.check(obs, info)

    def reset(self) -> None:
        """A reset with valid options."""
        rng, options = self.rng, {}
        seed = None if rng.integers(2) else int(rng.integers(2**40))
        count = self.num
        if self.num and rng.integers(2) and self.env.get_state()["started"].all():
            mask = rng.integers(2, size=self.num).astype(bool)
            mask[rng.integers(self.num)] = True
            options["reset_mask"], count = mask, int(mask.sum())
        if rng.integers(2):
            options["task"] = self.task()
            if self.num and rng.integers(2):
                options["task"] = [self.task() for _ in range(count)]
        self.check(*self.env.reset(seed=seed, options=options or None))

    def task(self) -> Any:
        """A task in one of its forms."""
        table = self.family.tasks(self.env.split)
        task = table[self.rng.integers(len(table))]
        if self.rng.integers(3) == 0 and not self.family.train_equals_test:
            task = self.family.sample_tasks(1, self.rng, self.env.split)[0]
            return task if self.rng.integers(2) else task.to_dict()
        return (task.index, task, task.to_dict())[self.rng.integers(3)]

    def tasks(self) -> None:
        """Other tasks, and drawn ones."""
        self.env.set_task(self.task())
        if self.num:
            mask = self.rng.integers(2, size=self.num).astype(bool)
            self.env.set_tasks([self.task() for _ in range(int(mask.sum()))], mask)
        drawn = self.env.sample_tasks(int(self.rng.integers(4)))
        if not all(isinstance(task, Task) for task in drawn):
            self.fail(f"sampled {drawn}")
        self.env.get_task()

    def state(self) -> None:
        """A state is taken, or an earlier one restored."""
        if self.saved and self.rng.integers(2):
            state = self.saved[self.rng.integers(len(self.saved))]
            self.env.set_state(state)
            if not same(self.env.get_state(), state):
                self.fail("a restored state is another one")
        else:
            self.saved = [*self.saved[-3:], self.env.get_state()]

    def renewed(self) -> None:
        """A copy, a pickled copy or a new environment takes over; the old one is closed."""
        old, kind = self.env, self.rng.integers(3)
        if kind == 2:
            self.begin()
        else:
            self.env = copy.deepcopy(old) if kind else pickle.loads(pickle.dumps(old))
            if not same(self.env.get_state(), old.get_state()):
                self.fail("a copy has another state")
        old.close()
        old.close()
        for call in (old.reset, old.get_state, lambda: old.step(np.zeros(old.action_space.shape))):
            self.raises(call)

    def check(self, obs: Any, info: dict[str, Any]) -> None:
        """What holds after every reset and step."""
        if not self.env.observation_space.contains(obs):
            self.fail(f"observation {obs!r}")
        keys = {key for key in info if "final" not in key}
        if self.keys and keys != self.keys:
            self.fail(f"the info has {sorted(keys ^ self.keys)} only sometimes")
        self.keys = keys

    # -- wrong calls ---------------------------------------------------------------------------------------

    def raises(self, call: Any, what: str = "") -> None:
        """A call must be refused by this package, in words of its own."""
        try:
            found = call()
        except ALLOWED as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            if not last.filename.startswith(PACKAGE):
                self.fail(f"{error!r} comes from {last.filename}:{last.lineno}\n{traceback.format_exc()}")
            if not str(error):
                self.fail(f"{error!r} says nothing")
        else:
            self.fail(f"a wrong call was accepted: {what} {found!r:.300}")

    def refused(self, call: Any, what: str = "") -> None:
        """A call must be refused, and change nothing."""
        before = self.env.get_state()
        self.raises(call, what)
        if not same(self.env.get_state(), before):
            self.fail("a refused call has changed the state")

    def pick(self, *values: Any) -> Any:
        """One of these."""
        return values[self.rng.integers(len(values))]

    def wrong(self) -> None:
        """A wrong argument of a random method."""
        env, wrong = self.env, self.pick(*WRONG)
        calls = [self._wrong_actions, self._wrong_task]
        calls.append(
            lambda: env.reset(
                options=self.pick(
                    5, "a", [1], {"tusk": 0}, {wrong: 1} if not isinstance(wrong, dict | list) else 5
                )
            )
        )
        calls.append(lambda: env.reset(seed=self.pick("a", b"ab", -1, 1.5, np.array(5), {"a": 1}, True)))
        calls.append(lambda: env.sample_tasks(self.pick("a", -1, 1.5, None, [1], True, float("nan"))))
        if self.num:
            mask = self.pick("a", 5, [True] * self.num, np.ones(self.num), np.ones(self.num + 1, bool))
            calls.append(lambda: env.reset(options={"reset_mask": mask}))
            calls.append(lambda: env.reset(options={"reset_mask": np.zeros(self.num, bool)}))
            calls.append(lambda: env.set_tasks([0] * self.num, mask))
            calls.append(lambda: env.set_tasks([0] * (self.num + 1)))
            calls.append(
                lambda: env.reset(seed=self.pick([1], [1] * (self.num - 1) + [-1], ["a"] * self.num))
            )
        self.refused(self.pick(*calls))

    def _wrong_actions(self) -> Any:
        shape = self.env.action_space.shape
        bad = np.zeros(shape)
        bad.flat[self.rng.integers(bad.size)] = self.pick(np.nan, np.inf, -np.inf)
        return self.env.step(
            self.pick(
                bad, np.zeros((*shape, 1)), np.zeros(shape)[..., :-1], None, "a", 5, [[1], [1, 2]], {"a": 1},
                np.zeros(shape, complex), np.full(shape, "a"), np.full(shape, None), np.zeros(shape, bool),
            )
        )  # fmt: skip

    def _wrong_task(self) -> Any:
        family, env = self.family, self.env
        size = len(family.parameter_names)
        index, other = 10**6, next(i for i in metarl_envs.registered_ids() if i != family.id)
        far = np.array(family.parameter_high) * 1e9 + 1e9
        bad = self.pick(
            index, -1, 1.5, "a", b"a", {}, {"family": 3}, float("nan"), [], object(), 10**400, True,
            metarl_envs.family(other).tasks("train")[0],
            Task(family.id, "train", -1, tuple(far)),
            Task(family.id, "train", -1, (0.0,) * (size + 1)),
            Task(family.id, "train", 5, tuple(far)),
            {"family": family.id, "split": "train", "index": -1, "parameters": ["a"] * size},
            {"family": family.id, "split": "train", "index": -1, "parameters": [1e400] * size},
        )  # fmt: skip
        return self.pick(lambda: env.set_task(bad), lambda: env.reset(options={"task": bad}))()

    def damaged(self) -> None:
        """A state with one part that is missing or another one."""
        state = copy.deepcopy(self.env.get_state())
        key = sorted(state)[self.rng.integers(len(state))]
        value = state[key]
        if self.rng.integers(4) == 0:
            del state[key]
        elif isinstance(value, np.ndarray) and value.size and self.rng.integers(2):
            array = value.astype(object)
            array.flat[self.rng.integers(array.size)] = self.pick("a", None, float("nan"), 1e400, -5)
            if key in ("physics", "position", "observation") and array.dtype == object:
                array = self.pick(array, value[..., :-1], value[None], value.astype(complex))
                if array.dtype == object:
                    try:
                        array.astype(float)
                    except (TypeError, ValueError):
                        pass
                    else:
                        array = np.full(value.shape, np.nan)
            state[key] = array
        else:
            state[key] = self.pick("a", 1.5, b"a", {"a": 1}, [[1], [1, 2]], object(), ["a"] * 7)
        self.refused(lambda: self.env.set_state(state), f"{key} = {state.get(key)!r:.200}")
