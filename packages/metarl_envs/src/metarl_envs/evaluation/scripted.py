"""Scripted oracles: hand-written controllers that observe the task, for some families.

Their gains were chosen on training tasks. They are references close to the optimum, not bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies import body_class
from metarl_envs.evaluation.agents import Agent, ScriptedOracle
from metarl_envs.evaluation.scripted_sparse import JacoReach, Walk, push

Array = NDArray[np.float64]

# Displacement of the point bodies per step and axis at full action (oyster's point_robot.py).
_POINT_STEP = 0.1


def straight_line(observations: NDArray[np.float32]) -> Array:
    """Move a point straight to its goal, as fast as the slower axis allows, and stay there.

    Args:
        observations: Position (2,) and goal (2,) of each task in metres (T, 4).

    Returns:
        Actions (T, 2) in [-1, 1] along the line to the goal; the last step has the
        length of the remaining distance.
    """
    state = np.asarray(observations, dtype=np.float64)
    actions = (state[:, 2:4] - state[:, :2]) / _POINT_STEP
    # Scaled by the larger component, not clipped per axis, which would bend the path.
    return np.asarray(actions / np.maximum(1.0, np.abs(actions).max(axis=1, keepdims=True)))


def drive(observations: NDArray[np.float32]) -> Array:
    """Turn the wheeled robot towards its goal or away from it, and drive there with decreasing speed.

    Args:
        observations: The car's position (3,), sine and cosine of its yaw, velocity (3,) and yaw
            velocity, and the goal (2,), of each task (T, 11).

    Returns:
        Actions (T, 2) in [-1, 1]: servo velocities of the two wheels.
    """
    radius, half_track, servo = 0.1, 0.2, 50.0  # m, m, rad/s at full action (wheeled.xml)
    state = np.asarray(observations, dtype=np.float64)
    to_goal, yaw = state[:, 9:11] - state[:, :2], np.arctan2(state[:, 3], state[:, 4])
    distance = np.hypot(to_goal[:, 0], to_goal[:, 1])
    bearing = _wrapped(np.arctan2(to_goal[:, 1], to_goal[:, 0]) - yaw)
    backward = np.abs(bearing) > np.pi / 2
    bearing = np.where(backward, _wrapped(bearing + np.pi), bearing)
    bearing[distance < 0.02] = 0.0  # m; at the goal it is not meaningful
    speed = np.where(backward, -1.0, 1.0) * np.cos(bearing) * np.minimum(3.0 * distance, 2.0)
    speed[np.abs(bearing) > 0.6] = 0.0  # turn on the spot first
    turn = np.clip(6.0 * bearing, -5.0, 5.0)
    # Wheel speeds are not observed, so the difference from the desired speed is added to it.
    forward = state[:, 5] * np.cos(yaw) + state[:, 6] * np.sin(yaw)
    speed, turn = 2.0 * speed - forward, 2.0 * turn - state[:, 8]
    wheels = np.stack([speed + half_track * turn, speed - half_track * turn], axis=1) / radius
    return np.clip(wheels / servo, -1.0, 1.0)


class Reach:
    """Bring an arm's fingertip to its goal: all joints except the first bend equally, with joint springs.

    Goals that are too near for the joint limits are approached as far as possible.
    """

    def __init__(self, links: Sequence[float], servo: float, stiffness: float, damping: float) -> None:
        """Tabulates the distance and direction of the fingertip for each bend.

        Args:
            links: Lengths of the links in metres, including that of the fingertip.
            servo: Servo velocity at full action, which is also the torque at rest, in N·m.
            stiffness: Stiffness of the springs in N·m/rad.
            damping: Damping of the springs in N·m·s/rad.
        """
        bends = np.linspace(0.0, np.pi, 20_001)
        turns = bends[:, None] * np.arange(len(links))
        x, y = np.cos(turns) @ np.asarray(links), np.sin(turns) @ np.asarray(links)
        reach = np.hypot(x, y)
        # From the smallest reach outwards, the reach increases monotonically, so it can be inverted.
        outward = slice(int(reach.argmin()), None, -1)
        self._bend, self._reach, self._offset = bends[outward], reach[outward], np.arctan2(y, x)[outward]
        self._joints = len(links)
        self._servo, self._stiffness, self._damping = servo, stiffness, damping

    def __call__(self, observations: NDArray[np.float32]) -> Array:
        """Apply a torque towards the desired angle of every joint.

        Args:
            observations: Cosines, sines and velocities of the n joints, fingertip (2,) and goal
                (2,) of each task (T, 3 n + 4).

        Returns:
            Actions (T, n) in [-1, 1].
        """
        n, state = self._joints, np.asarray(observations, dtype=np.float64)
        angles, goal = np.arctan2(state[:, n : 2 * n], state[:, :n]), state[:, 3 * n + 2 :]
        distance, direction = np.hypot(goal[:, 0], goal[:, 1]), np.arctan2(goal[:, 1], goal[:, 0])
        bend = np.interp(distance, self._reach, self._bend)
        offset = np.interp(distance, self._reach, self._offset)
        errors = []
        for side in (1.0, -1.0):
            wanted = np.repeat((side * bend)[:, None], n, axis=1)
            wanted[:, 0] = direction - side * offset
            error = wanted - angles
            error[:, 0] = _wrapped(error[:, 0])  # the other joints cannot make a full turn
            errors.append(error)
        nearer = np.abs(errors[0]).sum(axis=1) <= np.abs(errors[1]).sum(axis=1)
        error = np.where(nearer[:, None], errors[0], errors[1])
        torque = self._stiffness * error - self._damping * state[:, 2 * n : 3 * n]
        return np.clip(torque / self._servo, -1.0, 1.0)


def _wrapped(angle: Array) -> Array:
    """Returns angles in [-π, π)."""
    return np.asarray((angle + np.pi) % (2.0 * np.pi) - np.pi)


def _reach(body: str, servo: float, stiffness: float, damping: float) -> Callable[[], Agent]:
    def factory() -> Agent:
        links: tuple[float, ...] = body_class(body).links  # type: ignore[attr-defined]
        return ScriptedOracle(Reach(links, servo, stiffness, damping))

    return factory


_ORACLES: dict[str, Callable[[], Agent]] = {
    "MetaBall-MoveBox-v0": lambda: ScriptedOracle(push),
    "MetaJaco-Reach-v0": lambda: ScriptedOracle(JacoReach()),
    "MetaPoint-Goal-v0": lambda: ScriptedOracle(straight_line),
    "MetaPoint-SparseGoal-v0": lambda: ScriptedOracle(straight_line),
    "MetaQuadruped-GoToRing-v0": Walk,
    "MetaWheeled-Goal-v0": lambda: ScriptedOracle(drive),
    "MetaReacher2-Goal-v0": _reach("reacher2", servo=100.0, stiffness=400.0, damping=80.0),
    "MetaReacher4-Goal-v0": _reach("reacher4", servo=50.0, stiffness=200.0, damping=40.0),
}


def register_scripted_oracle(family_id: str, factory: Callable[[], Agent]) -> None:
    """Register the scripted oracle of a family.

    Args:
        family_id: Id of the family, version included.
        factory: Function without arguments that creates an agent.

    Raises:
        ValueError: If the family already has one.
    """
    if family_id in _ORACLES:
        raise ValueError(f"{family_id} already has a scripted oracle; a family has at most one")
    _ORACLES[family_id] = factory


def scripted_oracle(family_id: str) -> Agent | None:
    """A new scripted oracle of a family, or `None` if there is none."""
    factory = _ORACLES.get(family_id)
    return None if factory is None else factory()
