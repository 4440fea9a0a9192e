"""Scripted oracles of the sparse families: a gait, a way to push a box, inverse kinematics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.agents import Transition, Trial

Array = NDArray[np.float64]


class Walk:
    """Moves the quadruped towards its target in any direction without turning, by a trot with joint springs.

    The hips of each diagonal pair swing along the direction to the target, and the ankles lift the feet on
    their way forward. The seven numbers were found by the cross-entropy method on training tasks: 21
    generations of 64 gaits, fitness the mean speed of approach.
    """

    observe_task = True
    _FREQUENCY = 1.742  # Hz
    _HIP, _ANKLE, _STANCE = 1.227, 0.349, 0.190  # rad; amplitudes, and the mean of the ankles
    _LAG = -1.339  # rad; phase of the lift relative to the swing
    _STIFFNESS, _DAMPING = 9.151, 0.625  # fraction of full torque, per rad and per rad/s
    _LEGS = np.deg2rad([45.0, -45.0, -135.0, 135.0])  # front left, front right, back right, back left
    _PHASES = np.array([0.0, np.pi, 0.0, np.pi])
    _PERIOD = 0.05  # s

    def begin_trial(self, trial: Trial) -> None:
        """See `Agent.begin_trial`."""
        self._clock = 0

    def act(self, observations: NDArray[np.float32]) -> Array:
        """Torques of the current phase.

        Args:
            observations: those of `Quadruped` and the target (2,), of each task (T, 123).

        Returns:
            Actions (T, 8) in [-1, 1].
        """
        state = np.asarray(observations, dtype=np.float64)
        axes = state[:, 112:121].reshape(-1, 3, 3)
        away = state[:, 121:123] - state[:, 109:111]
        ahead = (axes[:, :2, 0] * away).sum(axis=1)
        left = (axes[:, :2, 1] * away).sum(axis=1)
        direction = np.arctan2(left, ahead)[:, None]
        phase = 2.0 * np.pi * self._FREQUENCY * self._clock * self._PERIOD + self._PHASES
        hips = self._HIP * np.sin(direction - self._LEGS) * np.cos(phase)
        ankles = np.broadcast_to(self._STANCE - self._ANKLE * np.sin(phase + self._LAG), hips.shape)
        wanted = np.stack([hips, ankles], axis=2).reshape(-1, 8)
        self._clock += 1
        torques = self._STIFFNESS * (wanted - state[:, :8]) - self._DAMPING * state[:, 8:16]
        return np.asarray(np.clip(torques, -1.0, 1.0))

    def observe(self, transition: Transition) -> None:
        """Does nothing."""

    def end_episode(self) -> None:
        """Restarts the gait."""
        self._clock = 0


# Constants of the push in metres and metres per second, selected from fifteen on training tasks.
_CLEAR, _BEHIND = 1.0, 0.85
_FASTEST, _PUSHING = 3.5, 1.9


def push(observations: NDArray[np.float32]) -> Array:
    """Roll the ball behind the box, around it if necessary, and push the box along the line to its target.

    Args:
        observations: those of `MoveBoxBall` and the task (4,), of each task (T, 40).

    Returns:
        Actions (T, 3) in [-1, 1].
    """
    state = np.asarray(observations, dtype=np.float64)
    axes = state[:, 14:23].reshape(-1, 3, 3)
    heading, speed = np.arctan2(axes[:, 1, 1], axes[:, 0, 1]), state[:, 6]
    ball, box, target = state[:, 11:13], state[:, 23:25], state[:, 38:40]
    along, distance = target - box, np.hypot(*(target - box).T)
    along = along / np.maximum(distance, 1e-6)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    ahead, aside = ((ball - box) * along).sum(axis=1), ((ball - box) * across).sum(axis=1)
    side = np.where(aside >= 0.0, 1.0, -1.0)[:, None] * across * _CLEAR

    goal = box - along * _BEHIND
    # From the side, pass the box at a distance; from the front, move to its side first.
    beside, before = ahead > -0.5, (ahead > 0.3) & (np.abs(aside) < 0.9)
    goal = np.where(beside[:, None], box + side - along * (_BEHIND + 0.2), goal)
    goal = np.where(before[:, None], box + side + along * np.clip(ahead, 0.0, 1.0)[:, None], goal)
    way = goal - ball
    pushing = (ahead < -0.35) & (np.abs(aside) < 0.25 * np.maximum(1.0, -ahead))
    way = np.where(pushing[:, None], along - 2.4 * aside[:, None] * across, way)

    error = (np.arctan2(way[:, 1], way[:, 0]) - heading + np.pi) % (2.0 * np.pi) - np.pi
    wanted = np.where(pushing, _PUSHING, np.minimum(_FASTEST, 2.5 * np.hypot(*way.T) + 0.2))
    wanted = wanted * np.maximum(np.cos(error), 0.0) ** 3
    # Positive torques roll backward and turn right; the kicking joint stays retracted.
    actions = np.stack([0.9 * (speed - wanted), -2.0 * error, np.full(len(state), -1.0)], axis=1)
    return np.asarray(np.clip(actions, -1.0, 1.0))


class JacoReach:
    """Moves the Jaco arm's pinch site straight to its target with a damped inverse of the Jacobian."""

    _GAIN = 4.0  # 1/s
    _DAMPING = 0.03
    _FASTEST = np.deg2rad([36.0, 36.0, 36.0, 48.0, 48.0, 48.0])  # rad/s at full action

    def __init__(self) -> None:
        """Builds the arm's model."""
        import mujoco

        from metarl_envs.bodies.jaco import build_model

        self._mujoco: Any = mujoco
        self._model = build_model()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("jaco_arm/jaco_hand/pinchsite").id

    def __call__(self, observations: NDArray[np.float32]) -> Array:
        """Velocities towards the target.

        Args:
            observations: those of `Jaco` and the target (3,), of each task (T, 45).

        Returns:
            Actions (T, 9) in [-1, 1]; the fingers do not move.
        """
        state = np.asarray(observations, dtype=np.float64)
        actions, jacobian = np.zeros((len(state), 9)), np.zeros((3, self._model.nv))
        for row, action in zip(state, actions, strict=True):
            self._data.qpos[:6] = np.arctan2(row[0:12:2], row[1:12:2])
            self._data.qpos[6:] = row[24:27]
            self._mujoco.mj_kinematics(self._model, self._data)
            self._mujoco.mj_comPos(self._model, self._data)
            self._mujoco.mj_jacSite(self._model, self._data, jacobian, None, self._site)
            arm = jacobian[:, :6]
            damped = arm @ arm.T + self._DAMPING**2 * np.eye(3)
            speeds = arm.T @ np.linalg.solve(damped, self._GAIN * (row[42:45] - row[30:33]))
            share = speeds / self._FASTEST
            action[:6] = share / max(1.0, np.abs(share).max())
        return actions
