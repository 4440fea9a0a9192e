"""The Jaco arm of Reach: dm_control's JacoArm with its hand, under velocity control."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Ids, Row
from metarl_envs.bodies.composed import compile_composed, composed_once, sensor_columns
from metarl_envs.bodies.mujoco_body import MujocoBody
from metarl_envs.simulation.rendering import View

POSES_FILE = Path(__file__).parent / "assets" / "jaco_poses.npy"
_POSES_SHA256 = "0d6980b0cf543e87fed14b7cffcd22dde307de0fa3070aeb7311b075178f1606"
_OFFSET = (0.0, 0.4, 0.0)  # m; the position of the arm in dm_control's manipulation tasks
_SUBSTEP = 0.002  # s
_ARM = tuple(f"jaco_arm/joint_{i}" for i in range(1, 7))
_TORQUES = tuple(f"{joint}_torque" for joint in _ARM)
_PINCH = "jaco_arm/jaco_hand/pinchsite"


def compose() -> Any:
    """Returns the root of the composed model: arm and hand on dm_control's manipulation arena."""
    from dm_control.entities.manipulators.kinova import JacoArm, JacoHand
    from dm_control.manipulation.shared.arenas import Standard

    arena, arm, hand = Standard(), JacoArm(), JacoHand(use_pinch_site_as_tcp=True)
    arm.attach(hand)
    arena.attach_offset(arm, offset=_OFFSET)
    return arena.mjcf_model


@composed_once
def build_model() -> mujoco.MjModel:
    """Returns the compiled model with the joints' torque sensors."""
    return compile_composed(compose(), _TORQUES, _SUBSTEP)


@cache
def start_poses() -> Array:
    """Returns the stored starting poses `(P, 9)`: arm joints and fingers, see `jaco_poses`.

    Raises:
        ValueError: the file does not have its recorded checksum.
    """
    poses: Array = np.load(POSES_FILE, allow_pickle=False)
    if hashlib.sha256(np.ascontiguousarray(poses, dtype="<f8").tobytes()).hexdigest() != _POSES_SHA256:
        raise ValueError(f"{POSES_FILE.name} is not the frozen set of poses; reinstall metarl-envs")
    return poses


class Jaco(MujocoBody):
    """N Jaco arms. The tracked point is the hand's pinch site."""

    actions = (
        *(Row(1, f"velocity of arm joint {i}, × 36°/s", "rad/s") for i in (1, 2, 3)),
        *(Row(1, f"velocity of arm joint {i}, × 48°/s", "rad/s") for i in (4, 5, 6)),
        *(Row(1, f"velocity of finger {i}, × 5", "rad/s") for i in (1, 2, 3)),
    )
    start_text = (
        "At rest, in a pose drawn from a stored set of 1024. In each pose the hand points down, its pinch"
        " site is uniform in [-0.2, 0.2]² × [0.02, 0.4] m, the fingers are closed by one common uniform"
        " fraction, and there are no contacts."
    )
    end_text = "Only when a simulation diverges (`info['diverged']`)."
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "position of the pinch site along x after the step, m",
        "y_position": "position of the pinch site along y after the step, m",
        "z_position": "height of the pinch site after the step, m",
    }
    observations = (
        Row(12, "sine and cosine of each arm joint's angle", "1"),
        Row(6, "velocities of the arm's joints", "rad/s"),
        Row(6, "torques t at the arm's joints, as sign(t) · log(1 + |t|)", "log N·m"),
        Row(3, "finger angles", "rad"),
        Row(3, "finger velocities", "rad/s"),
        Row(3, "world position of the pinch site", "m"),
        Row(9, "orientation of the pinch site, rotation matrix by rows", "1"),
    )
    view: ClassVar[View] = View(distance=1.9, elevation=-25.0, marker=0.05, centre=(0.0, 0.15, 0.25))

    def __init__(self, num: int, num_threads: int, frame_skip: int = 20) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.002 s per step.
        """
        super().__init__(build_model(), num, num_threads, frame_skip, fresh=True)
        model = self.model
        self._pinch = model.site(_PINCH).id
        self._torques = sensor_columns(model, _TORQUES)
        self._axes = np.array([model.joint(name).axis for name in _ARM])
        for name in ("site_xpos", "site_xmat", "sensordata"):
            self.engine.derived(name)

    def start(self, ids: Ids, generators: Sequence[np.random.Generator]) -> None:
        """Draws each pose from the stored set."""
        bank = start_poses()
        qpos = bank[[generator.integers(len(bank)) for generator in generators]]
        self.engine.place(ids, qpos, np.zeros((len(ids), self.model.nv)))

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the observation table."""
        engine = self.engine
        arm = engine.qpos[:, :6]
        out[:, 0:12:2] = np.sin(arm)
        out[:, 1:12:2] = np.cos(arm)
        out[:, 12:18] = engine.qvel[:, :6]
        torques = engine.derived("sensordata")[:, self._torques].reshape(self.num, 6, 3)
        along = (torques * self._axes).sum(axis=2)
        out[:, 18:24] = np.sign(along) * np.log1p(np.abs(along))
        out[:, 24:27] = engine.qpos[:, 6:]
        out[:, 27:30] = engine.qvel[:, 6:]
        out[:, 30:33] = engine.derived("site_xpos")[:, self._pinch]
        out[:, 33:42] = engine.derived("site_xmat")[:, self._pinch].reshape(self.num, 9)

    def position(self) -> Array:
        """Returns the pinch site's position, `(N, 3)`."""
        return self.engine.derived("site_xpos")[:, self._pinch].copy()
