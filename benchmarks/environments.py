"""Environment steps per second against raw MuJoCo batches and Gymnasium's own environments."""

from __future__ import annotations

import itertools
import os
import sys

import gymnasium
import numpy as np
from interleave import Check, Variant, interleave, report
from mujoco.batch import Batch

from metarl_envs import MetaVectorEnv

SIZES = (1, 16, 64, 256, 1024)
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
EPISODE = 200


def native(family: str, num: int) -> Variant:
    """Our vector environment, autoreset included."""
    env = MetaVectorEnv(family, num)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(16)])
    steps = max(1, 64 // num)

    def run() -> None:
        for _ in range(steps):
            env.step(next(actions))

    return Variant(run, steps * num)


def raw(family: str, num: int) -> Variant:
    """The same model on `mujoco.batch`, as bare as it can be: controls, step, reset at the horizon."""
    core = MetaVectorEnv(family, 1)._core
    model, skip = core.body.engine.model, core.body.engine.frame_skip  # type: ignore[attr-defined]
    batch = Batch(model, num, min(num, THREADS))
    batch.reset()
    ctrl = batch.bind("ctrl")
    rng = np.random.default_rng(0)
    actions = itertools.cycle([rng.uniform(-1, 1, ctrl.shape) for _ in range(16)])
    clock = itertools.count(1)
    steps = max(1, 64 // num)

    def run() -> None:
        for _ in range(steps):
            ctrl[:] = next(actions)
            batch.step(None, skip)
            if next(clock) % EPISODE == 0:
                batch.reset()

    return Variant(run, steps * num)


def gymnasium_single(gym_id: str) -> Variant:
    """Gymnasium's own environment of the same body, with the wrappers that `make` puts around it."""
    env = gymnasium.make(gym_id, max_episode_steps=EPISODE)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(16)])

    def run() -> None:
        for _ in range(64):
            _, _, terminated, truncated, _ = env.step(next(actions))
            if terminated or truncated:
                env.reset()

    return Variant(run, 64)


def gymnasium_sync(gym_id: str, num: int) -> Variant:
    """Gymnasium's synchronous vector environment of the same body."""
    env = gymnasium.make_vec(gym_id, num_envs=num, vectorization_mode="sync", max_episode_steps=EPISODE)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(16)])

    def run() -> None:
        for _ in range(4):
            env.step(next(actions))

    return Variant(run, 4 * num)


def body(family: str, gym_id: str, native_over_raw: float) -> bool:
    """Times one MuJoCo family."""
    variants = {f"native N={n}": native(family, n) for n in SIZES}
    variants |= {f"raw mujoco.batch N={n}": raw(family, n) for n in SIZES}
    variants["gymnasium single"] = gymnasium_single(gym_id)
    variants["gymnasium SyncVectorEnv(16)"] = gymnasium_sync(gym_id, 16)
    rates = interleave(variants)
    checks = [
        Check("native / raw, N=64", rates.ratio("native N=64", "raw mujoco.batch N=64"), native_over_raw),
        Check("native N=1 / gymnasium single", rates.ratio("native N=1", "gymnasium single"), 0.8),
    ]
    over_sync = rates.ratio("native N=64", "gymnasium SyncVectorEnv(16)")
    if family.startswith("MetaHalfCheetah"):
        checks.append(Check("native N=64 / SyncVectorEnv(16)", over_sync, 2.5))
    else:
        print(f"\n{family}: native N=64 is {over_sync:.2f} times SyncVectorEnv(16)")
    return report(f"{family} stepping", "environment steps per second", rates, checks)


def point() -> bool:
    """Times the point mass, whose figure is absolute: it has no simulator to compare with."""
    variants = {f"native N={n}": native("MetaPoint-Goal-v0", n) for n in SIZES}
    rates = interleave(variants)
    millions = rates.median("native N=1024") / 1e6
    checks = [Check("million steps per second, N=1024", millions, 1.0)]
    return report("MetaPoint-Goal-v0 stepping", "environment steps per second", rates, checks)


def main() -> int:
    """Runs all, and returns 1 if a figure was missed."""
    reached = [
        body("MetaHalfCheetah-Vel-v0", "HalfCheetah-v5", 0.80),
        body("MetaAnt-Goal-v0", "Ant-v5", 0.90),
        point(),
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
