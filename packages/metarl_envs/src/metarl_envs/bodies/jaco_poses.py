"""The stored starting poses of the Jaco arm, and the inverse kinematics that computes them.

    python -m metarl_envs.bodies.jaco_poses FILE

A pose is drawn in the same way as in dm_control's reach task. The fingers are closed by one common uniform
fraction. The pinch site is uniform in its box and points down; inverse kinematics finds the joint angles from
a random initial guess. Poses with contacts are rejected. Solving takes milliseconds, too long for a reset;
therefore the package contains a frozen set of poses.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mujoco
import numpy as np

from metarl_envs.bodies.base import Array
from metarl_envs.bodies.jaco import build_model
from metarl_envs.files import atomic_path

COUNT = 1024
LOW, HIGH = (-0.2, -0.2, 0.02), (0.2, 0.2, 0.4)  # m; dm_control: manipulation/reach.py, _SITE_WORKSPACE
_DOWN = np.array([0.0, 0.70710678118, 0.70710678118, 0.0])  # dm_control: the hand points down
_ITERATIONS = 100
_DAMPING = 1e-2
_POSITION_ERROR, _ANGLE_ERROR = 1e-6, 1e-5  # m, rad
_CLEARANCE = 1e-3  # m; between any two geoms that could touch


class PoseSolver:
    """Finds poses of the arm by damped least squares."""

    def __init__(self) -> None:
        """Builds the arm."""
        self._model = build_model()
        # Contacts are listed at distances below this.
        self._model.geom_margin[:] = _CLEARANCE
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("jaco_arm/jaco_hand/pinchsite").id
        limited = self._model.jnt_limited.astype(bool)
        self._low = np.where(limited, self._model.jnt_range[:, 0], 0.0)
        self._high = np.where(limited, self._model.jnt_range[:, 1], 2.0 * np.pi)

    def pose(self, index: int) -> Array:
        """Returns pose `index` of the set, `(9,)`; it depends only on the index."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([20_260_101, index])))
        while True:
            fingers = np.full(3, rng.uniform())
            place = rng.uniform(LOW, HIGH)
            start = np.concatenate([rng.uniform(self._low[:6], self._high[:6]), fingers])
            start[6:] = self._low[6:] + (self._high[6:] - self._low[6:]) * fingers
            if self._reach(start, place) and self._within_limits() and not self._in_contact():
                found: Array = self._data.qpos.copy()
                return found

    def _reach(self, start: Array, place: Array) -> bool:
        """Moves the arm's joints until the pinch site is at `place`; returns whether this succeeded."""
        model, data = self._model, self._data
        data.qpos[:] = start
        linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        orientation, error = np.zeros(4), np.zeros(6)
        for _ in range(_ITERATIONS):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            error[:3] = place - data.site_xpos[self._site]
            mujoco.mju_mat2Quat(orientation, data.site_xmat[self._site])
            orientation[1:] *= -1.0
            turn = np.zeros(4)
            mujoco.mju_mulQuat(turn, _DOWN, orientation)
            mujoco.mju_quat2Vel(error[3:], turn, 1.0)
            if np.linalg.norm(error[:3]) < _POSITION_ERROR and np.linalg.norm(error[3:]) < _ANGLE_ERROR:
                return True
            mujoco.mj_jacSite(model, data, linear, angular, self._site)
            jacobian = np.concatenate([linear, angular])[:, :6]
            damped = jacobian @ jacobian.T + _DAMPING**2 * np.eye(6)
            step = jacobian.T @ np.linalg.solve(damped, error)
            data.qpos[:6] += step * min(1.0, 0.5 / np.abs(step).max())
        return False

    def _within_limits(self) -> bool:
        """Maps the angles into [0, 2π), and returns whether they are within the joints' limits."""
        self._data.qpos[:6] %= 2.0 * np.pi
        angles = self._data.qpos
        return bool((angles >= self._low).all() and (angles <= self._high).all())

    def _in_contact(self) -> bool:
        mujoco.mj_forward(self._model, self._data)
        return bool(self._data.ncon > 0)


def main() -> None:
    """Writes the set of poses."""
    solver = PoseSolver()
    poses = np.stack([solver.pose(i) for i in range(COUNT)])
    with atomic_path(Path(sys.argv[1])) as path, path.open("wb") as file:
        np.save(file, poses, allow_pickle=False)
    print(f"{COUNT} poses")


if __name__ == "__main__":
    main()
