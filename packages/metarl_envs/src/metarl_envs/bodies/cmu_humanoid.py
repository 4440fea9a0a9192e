"""The humanoid of Go To Target: dm_control's position-controlled CMU humanoid of 2020."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.base import Array, Mask, Row, if_any
from metarl_envs.bodies.composed import (
    ComposedWalker,
    body_ids,
    compile_composed,
    composed_once,
    egocentric,
    sensor_columns,
)
from metarl_envs.simulation.rendering import View

_SENSORS = ("walker/sensor_root_gyro", "walker/sensor_root_veloc", "walker/sensor_root_accel")
_APPENDAGES = ("walker/rradius", "walker/lradius", "walker/rfoot", "walker/lfoot", "walker/head")
_HEIGHT = 1.143  # m; dm_control's upright pose of the 2020 model
_UPRIGHT = (0.859, 1.0, 1.0, 0.859)  # the same, before normalisation


_SCALE, _MASS = 1.2, 70.0  # and kg; dm_control's 2020 walker is its 2020 model with this scale and mass


def compose() -> Any:
    """Returns the root of the composed model: the walker on dm_control's floor.

    The walker is dm_control's CMUHumanoidPositionControlledV2020, whose constructor computes its mass
    with dm_control's `Physics`. Here MuJoCo computes it; the model is the same, and newer versions work too.
    """
    from dm_control.locomotion.arenas.floors import Floor
    from dm_control.locomotion.walkers.cmu_humanoid import CMUHumanoidPositionControlled
    from dm_control.locomotion.walkers.rescale import rescale_humanoid

    walker = CMUHumanoidPositionControlled(model_version="2020", include_face=True)
    rescale_humanoid(walker, _SCALE, _SCALE)
    root = walker.mjcf_model
    bare = mujoco.MjModel.from_xml_string(root.to_xml_string(), root.get_assets())
    factor = _MASS / bare.body("root").subtreemass[0]
    for geom in walker.root_body.find_all("geom"):
        if geom.mass is not None:
            geom.mass *= factor
        else:
            geom.density = (1000 if geom.density is None else geom.density) * factor
    for body in walker.root_body.find_all("body"):
        if body.inertial is not None:
            body.inertial.mass *= factor
    arena = Floor(size=(8, 8))
    walker.create_root_joints(arena.attach(walker))
    return arena.mjcf_model


@composed_once
def build_model() -> mujoco.MjModel:
    """Returns the compiled model with only the kinematic sensors."""
    return compile_composed(compose(), _SENSORS)


class FloorContact:
    """Finds simulations that touch the floor with anything but their feet, from the positions of the geoms.

    MuJoCo's contact list cannot be bound per simulation. Instead, the lowest point of every geom is
    computed. If it is below the plane z = 0, the geom touches the floor; MuJoCo lists the same contacts.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        """Sorts the geoms that may not touch the floor by their shape.

        Raises:
            ValueError: a geom is neither sphere, capsule nor ellipsoid.
        """
        feet = {i for i in range(model.nbody) if self._in_foot(model, i)}
        floor = model.geom("groundplane").id
        kinds = mujoco.mjtGeom
        self._balls: list[int] = []
        self._capsules: list[int] = []
        self._ellipsoids: list[int] = []
        groups = {
            int(kinds.mjGEOM_SPHERE): self._balls,
            int(kinds.mjGEOM_CAPSULE): self._capsules,
            int(kinds.mjGEOM_ELLIPSOID): self._ellipsoids,
        }
        for i in range(model.ngeom):
            meets = (model.geom_contype[i] & model.geom_conaffinity[floor]) | (
                model.geom_contype[floor] & model.geom_conaffinity[i]
            )
            if i == floor or not meets or model.geom_bodyid[i] in feet:
                continue
            if int(model.geom_type[i]) not in groups:
                raise ValueError(f"the geom {model.geom(i).name} has an unsupported shape")
            groups[int(model.geom_type[i])].append(i)
        self._size = model.geom_size.copy()

    @staticmethod
    def _in_foot(model: mujoco.MjModel, body: int) -> bool:
        """Returns whether a body is a foot or a descendant of one, as the toes are."""
        while body:
            if model.body(body).name in ("walker/lfoot", "walker/rfoot"):
                return True
            body = int(model.body_parentid[body])
        return False

    def touches(self, xpos: Array, xmat: Array) -> Mask:
        """Returns which simulations touch the floor with anything but their feet.

        Args:
            xpos: positions of all geoms, `(N, G, 3)`.
            xmat: their orientations, `(N, G, 9)` or `(N, G, 3, 3)`.
        """
        up = xmat.reshape(*xmat.shape[:2], 9)[:, :, 6:]  # z components of each geom's axes
        size, height = self._size, xpos[:, :, 2]
        b, c, e = self._balls, self._capsules, self._ellipsoids
        low = np.concatenate(
            [
                height[:, b] - size[b, 0],
                height[:, c] - np.abs(up[:, c, 2]) * size[c, 1] - size[c, 0],
                height[:, e] - np.sqrt(((up[:, e] * size[e]) ** 2).sum(axis=2)),
            ],
            axis=1,
        ).min(axis=1)
        return np.asarray(low < 0.0)


class CMUHumanoid(ComposedWalker):
    """N humanoids with 56 position servos.

    dm_control's observables are omitted if others contain them: the end effectors' positions (in those of the
    appendages), the body's height (in the position) and the world's z axis (in the orientation).
    """

    root = "walker/root"
    spawn = 4.0  # IWPA, appendix B: 8 m by 8 m
    start_text = (
        "Upright and at rest, joints at 0, with one fixed heading, as in dm_control; the root is uniform in"
        " the square [-4, 4]². All episodes of a test task start at the same position."
    )
    end_text = "At success, when anything but the feet touches the floor, or when a simulation diverges."
    info_keys: ClassVar[dict[str, str]] = {
        "x_position": "position of the root along x after the step, m",
        "y_position": "position of the root along y after the step, m",
    }
    view: ClassVar[View] = View(distance=12.0, elevation=-35.0, marker=1.0, centre=(0.0, 0.0, 0.5))
    observations = (
        Row(56, "joint angles, in the order of the actions", "rad"),
        Row(56, "joint velocities, in the same order", "rad/s"),
        Row(56, "activations of the servos' filters (30 ms), in the same order", "1"),
        Row(15, "positions of right and left forearm, right and left foot, head, in the root's frame", "m"),
        Row(3, "angular velocity of the root in its own frame (gyroscope)", "rad/s"),
        Row(3, "velocity of the root in its own frame (velocimeter)", "m/s"),
        Row(3, "acceleration of the root in its own frame, one substep (5 ms) old", "m/s²"),
        Row(3, "world position of the root", "m"),
        Row(9, "orientation of the root, rotation matrix by rows", "1"),
    )
    actions = (Row(56, "target angle of a joint, scaled to its range; joints in alphabetical order", "1"),)

    def __init__(self, num: int, num_threads: int, frame_skip: int = 10) -> None:
        """Builds the simulations.

        Args:
            num: number of simulations.
            num_threads: number of threads for stepping.
            frame_skip: substeps of 0.005 s per step.
        """
        super().__init__(build_model(), num, num_threads, frame_skip)
        model = self.model
        self._start[2] = _HEIGHT
        self._start[3:7] = np.array(_UPRIGHT) / np.linalg.norm(_UPRIGHT)
        self._appendages = body_ids(model, _APPENDAGES)
        self._kinematics = sensor_columns(model, _SENSORS)
        joints = model.actuator_trnid[:, 0]
        self._angles, self._speeds = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self._floor_contact = FloorContact(model)
        for name in ("act", "geom_xpos", "geom_xmat"):
            self.engine.derived(name)

    def write_observations(self, out: NDArray[np.floating]) -> None:
        """Writes the observation table."""
        engine, root = self.engine, self._root
        xpos = engine.derived("xpos")
        place, frame = xpos[:, root], engine.derived("xmat")[:, root].reshape(self.num, 9)
        out[:, :56] = engine.qpos[:, self._angles]
        out[:, 56:112] = engine.qvel[:, self._speeds]
        out[:, 112:168] = engine.derived("act")
        out[:, 168:183] = egocentric(xpos[:, self._appendages] - place[:, None], frame).reshape(self.num, 15)
        out[:, 183:192] = engine.derived("sensordata")[:, self._kinematics]
        out[:, 192:195] = place
        out[:, 195:204] = frame

    def fallen(self) -> Mask | None:
        """Finds geoms below the floor that do not belong to the feet."""
        out = self._floor_contact.touches(self.engine.derived("geom_xpos"), self.engine.derived("geom_xmat"))
        return if_any(out)
