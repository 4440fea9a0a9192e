"""Speed of the sparse families' bodies relative to dm_control's composer, and time of a reset.

The composer environments are built as a user would build them for these tasks, with the observables of the
paper and without recompilation.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
from environments import Case, episode_length, native, raw
from interleave import Check, Variant, interleave, report

from metarl_envs import MetaVectorEnv
from metarl_envs.bodies import ball, body_class

body_class("quadruped")  # chooses headless rendering before dm_control is imported

from dm_control import composer, manipulation  # noqa: E402
from dm_control.entities.props import Primitive  # noqa: E402
from dm_control.locomotion.arenas.floors import Floor  # noqa: E402
from dm_control.locomotion.tasks.go_to_target import GoToTarget  # noqa: E402
from dm_control.locomotion.walkers.ant import Ant  # noqa: E402
from dm_control.locomotion.walkers.cmu_humanoid import CMUHumanoidPositionControlledV2020  # noqa: E402
from dm_control.locomotion.walkers.jumping_ball import JumpingBallWithHead  # noqa: E402

_CONTROL = {"physics_timestep": 0.005, "control_timestep": 0.05}
CASES = (
    (Case("MetaQuadruped-GoToRing-v0", over_raw=0.9, fresh=True), 6.0),
    (Case("MetaBall-MoveBox-v0", over_raw=0.9, fresh=True), 9.0),
    (Case("MetaJaco-Reach-v0", over_raw=0.9, fresh=True), 4.0),
    (Case("MetaCMUHumanoid-GoToTarget-v0", over_raw=0.9, fresh=True), 3.0),
)


class Push(GoToTarget):  # type: ignore[misc]  # dm_control is untyped
    """dm_control's go-to-target task with a box that must reach the target."""

    def __init__(self, walker: Any, arena: Any) -> None:
        """Adds the box."""
        super().__init__(walker, arena, **_CONTROL)
        self.box = Primitive(geom_type="box", size=[ball.BOX_HALF_SIZE] * 3, mass=1.0, name="box")
        arena.add_free_entity(self.box)
        self.box.observables.enable_all()

    def get_reward(self, physics: Any) -> float:
        """Rewards the box on the target."""
        offset = physics.bind(self.box.geom).xpos[:2] - physics.bind(self._target).pos[:2]
        return 10.0 if np.linalg.norm(offset) < 0.3 else 0.0


def composer_environment(family_id: str) -> Any:
    """Returns the composer environment most similar to a family, without recompilation."""
    if family_id == "MetaJaco-Reach-v0":
        environment = manipulation.load("reach_site_features", seed=0)
        environment.task.task_observables["target_position"].enabled = False
        return environment
    arena = Floor(size=(8, 8))
    if family_id == "MetaBall-MoveBox-v0":
        walker: Any = JumpingBallWithHead()
        task: Any = Push(walker, arena)
    else:
        walker = CMUHumanoidPositionControlledV2020() if "Humanoid" in family_id else Ant()
        task = GoToTarget(walker, arena, **_CONTROL)
    # What the paper lists: proprioception, kinematic sensors, position and orientation.
    observables = walker.observables
    observables.disable_all()
    listed = (*observables.proprioception, *observables.kinematic_sensors)
    for observable in (*listed, observables.position, observables.orientation):
        observable.enabled = True
    return composer.Environment(task, time_limit=10.0, random_state=0, recompile_mjcf_every_episode=False)


def composed(family_id: str, episode: int) -> Variant:
    """One composer environment in this process."""
    environment = composer_environment(family_id)
    spec = environment.action_spec()
    environment.reset()
    rng = np.random.default_rng(0)
    actions = itertools.cycle([rng.uniform(spec.minimum, spec.maximum) for _ in range(16)])
    clock = itertools.count(1)

    def run() -> None:
        for _ in range(16):
            if next(clock) % episode == 0:
                environment.reset()
            if environment.step(next(actions)).last():
                environment.reset()

    return Variant(run, 16)


def body(case: Case, over_composer: float) -> bool:
    """Times one body."""
    episode = episode_length(case.family)
    variants = {
        "native N=64": native(case.family, 64),
        "raw mujoco.batch N=64": raw(case.family, 64, episode),
        "raw mujoco.batch, fields of the new state, N=64": raw(case.family, 64, episode, stage=True),
        "dm_control composer": composed(case.family, episode),
    }
    rates = interleave(variants)
    fresh = rates.ratio("native N=64", "raw mujoco.batch, fields of the new state, N=64")
    checks = [
        Check("native / raw, fields of the new state, N=64", fresh, case.over_raw),
        Check("native N=64 / composer", rates.ratio("native N=64", "dm_control composer"), over_composer),
    ]
    bare = rates.ratio("native N=64", "raw mujoco.batch N=64")
    print(f"\n{case.family}: native N=64 is {bare:.2f} of raw mujoco.batch without these fields")
    return report(f"{case.family} stepping", "environment steps per second", rates, checks)


def reset_cost() -> bool:
    """Times resets of Jaco arms: at most 60 µs each, an absolute figure because there is no reference."""
    env = MetaVectorEnv("MetaJaco-Reach-v0", 64)
    env.reset(seed=0)
    rates = interleave({"resets": Variant(lambda: env.reset(), 64)})
    checks = [Check("thousand resets per second, N=64", rates.median("resets") / 1e3, 1e3 / 60.0)]
    return report("MetaJaco-Reach-v0 resets", "resets per second", rates, checks)


def main() -> int:
    """Runs all benchmarks; returns 1 if a required figure was not reached."""
    wanted = sys.argv[1:]
    reached = [body(case, factor) for case, factor in CASES if not wanted or case.family in wanted]
    reached.append(reset_cost())
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
