"""Environment steps per second relative to raw MuJoCo batches and Gymnasium's environments.

One family per body. `python environments.py [ID ...]` times only these.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import gymnasium
import mujoco
import numpy as np
from interleave import Check, Variant, interleave, report
from mujoco.batch import Batch

from metarl_envs import MetaVectorEnv, family
from metarl_envs.bodies.planar_runner import ParameterBody
from metarl_envs.simulation.batch_engine import BatchEngine

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Case:
    """A body to time.

    Attributes:
        family: the family whose body it is.
        gym_id: Gymnasium's environment of the same body, where there is one.
        over_raw: what native stepping must reach of the raw batch, N = 64.
        over_sync: how many times Gymnasium's SyncVectorEnv(16) it must reach.
        fresh: whether reward and observation hold derived fields of the new state (the centre of mass in
            the rllab lineage), which a bare step leaves a substep behind; the raw batch then computes
            them too.
        sizes: numbers of simulations to time.
        single: what N = 1 must reach of Gymnasium's single environment, where that is timed.
    """

    family: str
    gym_id: str | None = None
    over_raw: float = 0.85
    over_sync: float = 2.2
    fresh: bool = False
    sizes: tuple[int, ...] = (64,)
    single: float | None = None


ALL_SIZES = (1, 16, 64, 256, 1024)
CASES = (
    Case("MetaHalfCheetah-Vel-v0", "HalfCheetah-v5", over_sync=2.5, sizes=ALL_SIZES, single=0.8),
    Case("MetaAnt-Goal-v0", "Ant-v5", 0.90, sizes=ALL_SIZES, single=0.8),
    Case("MetaHumanoid-Dir2D-v0", "Humanoid-v5"),
    Case("MetaWalker2d-Params-v0", "Walker2d-v5"),
    Case("MetaHopper-Params-v0", "Hopper-v5"),
    Case("MetaAnt-GoalAnnulus-v0"),
    Case("MetaAnt-VelShort-v0", fresh=True),
    Case("MetaHalfCheetah-VelShort-v0", over_raw=0.75, fresh=True),  # a step is one short substep
    Case("MetaHumanoid-VelShort-v0", fresh=True),
    Case("MetaWheeled-Goal-v0", over_raw=0.75),
    Case("MetaReacher2-Goal-v0", over_raw=0.75),
    Case("MetaReacher4-Goal-v0", over_raw=0.75),
)


def native(family_id: str, num: int) -> Variant:
    """Our vector environment, including autoreset."""
    env = MetaVectorEnv(family_id, num)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(16)])
    steps = max(1, 64 // num)

    def run() -> None:
        for _ in range(steps):
            env.step(next(actions))

    return Variant(run, steps * num)


def episode_length(family_id: str) -> int:
    """Returns the mean number of steps of episodes with random actions."""
    env = MetaVectorEnv(family_id, 64, autoreset_mode="SameStep")
    env.reset(seed=0)
    env.action_space.seed(0)
    steps = 2 * env.family.horizon
    ends = sum(int(np.logical_or(*env.step(env.action_space.sample())[2:4]).sum()) for _ in range(steps))
    env.close()
    return round(steps * 64 / ends)


def raw(family_id: str, num: int, episode: int, *, stage: bool = False) -> Variant:
    """The same model on `mujoco.batch` in a minimal loop: controls, step, reset after an episode.

    Args:
        family_id: the family.
        num: the number of simulations.
        episode: steps between resets.
        stage: ask for the derived fields of the new state, where the family's reward is made of them, in
            the quicker of the two ways that there are.
    """
    env = MetaVectorEnv(family_id, max(2, num))
    env.reset(seed=0)
    engine = env._core.body.engine  # type: ignore[attr-defined]
    start = engine.get_state()[:num]
    model, skip = engine.model, engine.frame_skip
    batch = Batch(model, num, min(num, THREADS), stage and engine._persistent)
    wanted = engine._stage if stage else int(mujoco.mjtStage.mjSTAGE_NONE.value)

    def restart() -> None:
        batch.reset()
        batch.state[:] = start
        batch.forward()

    restart()
    ctrl = batch.bind("ctrl")
    rng = np.random.default_rng(0)
    high = model.actuator_ctrlrange[:, 1]
    actions = itertools.cycle([rng.uniform(-1, 1, ctrl.shape) * high for _ in range(16)])
    clock = itertools.count(1)
    steps = max(1, 64 // num)

    def run() -> None:
        for _ in range(steps):
            ctrl[:] = next(actions)
            batch.step(None, skip, wanted)
            if next(clock) % episode == 0:
                restart()

    return Variant(run, steps * num)


def gymnasium_single(gym_id: str, horizon: int) -> Variant:
    """Gymnasium's environment of the same body, with the wrappers that `make` adds."""
    env = gymnasium.make(gym_id, max_episode_steps=horizon)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(16)])

    def run() -> None:
        for _ in range(64):
            _, _, terminated, truncated, _ = env.step(next(actions))
            if terminated or truncated:
                env.reset()

    return Variant(run, 64)


def gymnasium_sync(gym_id: str, num: int, horizon: int) -> Variant:
    """Gymnasium's synchronous vector environment of the same body."""
    env = gymnasium.make_vec(gym_id, num_envs=num, vectorization_mode="sync", max_episode_steps=horizon)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(16)])

    def run() -> None:
        for _ in range(4):
            env.step(next(actions))

    return Variant(run, 4 * num)


def body(case: Case) -> bool:
    """Times one MuJoCo body."""
    episode = episode_length(case.family)
    variants = {f"native N={n}": native(case.family, n) for n in case.sizes}
    variants |= {f"raw mujoco.batch N={n}": raw(case.family, n, episode) for n in case.sizes}
    reference = "raw mujoco.batch N=64"
    if case.fresh:
        reference = "raw mujoco.batch, fields of the new state, N=64"
        variants[reference] = raw(case.family, 64, episode, stage=True)
    horizon = family(case.family).horizon
    if case.gym_id is not None:
        variants["gymnasium SyncVectorEnv(16)"] = gymnasium_sync(case.gym_id, 16, horizon)
        if case.single is not None:
            variants["gymnasium single"] = gymnasium_single(case.gym_id, horizon)
    rates = interleave(variants)
    name = "native / raw, fields of the new state, N=64" if case.fresh else "native / raw, N=64"
    checks = [Check(name, rates.ratio("native N=64", reference), case.over_raw)]
    if case.fresh:
        bare = rates.ratio("native N=64", "raw mujoco.batch N=64")
        print(f"\n{case.family}: native N=64 is {bare:.2f} of raw mujoco.batch without these fields")
    if case.gym_id is not None:
        ratio = rates.ratio("native N=64", "gymnasium SyncVectorEnv(16)")
        checks.append(Check("native N=64 / SyncVectorEnv(16)", ratio, case.over_sync))
        if case.single is not None:
            ratio = rates.ratio("native N=1", "gymnasium single")
            checks.append(Check("native N=1 / gymnasium single", ratio, case.single))
    return report(f"{case.family} stepping", "environment steps per second", rates, checks)


@contextmanager
def one_physics() -> Iterator[None]:
    """Builds parameter bodies whose simulations share one model."""
    with (
        mock.patch.object(ParameterBody, "set_tasks"),
        mock.patch.object(BatchEngine, "vary"),
    ):
        yield


def parameters() -> bool:
    """Times the cost of separate model parameters for the simulations of a parameter family."""
    family_id = "MetaWalker2d-Params-v0"
    with one_physics():
        shared = native(family_id, 64)
    rates = interleave({"own parameters N=64": native(family_id, 64), "shared parameters N=64": shared})
    checks = [Check("own / shared, N=64", rates.ratio("own parameters N=64", "shared parameters N=64"), 0.85)]
    return report("Parameters per simulation", "environment steps per second", rates, checks)


def point() -> bool:
    """Times the point mass; its figure is absolute, because there is no simulator to compare with."""
    variants = {f"native N={n}": native("MetaPoint-Goal-v0", n) for n in ALL_SIZES}
    rates = interleave(variants)
    millions = rates.median("native N=1024") / 1e6
    checks = [Check("million steps per second, N=1024", millions, 1.0)]
    return report("MetaPoint-Goal-v0 stepping", "environment steps per second", rates, checks)


def main() -> int:
    """Runs all benchmarks; returns 1 if a required figure was not reached."""
    wanted = sys.argv[1:]
    reached = [body(case) for case in CASES if not wanted or case.family in wanted]
    if not wanted or "MetaWalker2d-Params-v0" in wanted:
        reached.append(parameters())
    if not wanted or "MetaPoint-Goal-v0" in wanted:
        reached.append(point())
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
