"""Restores a model as it was when its tasks were defined: sources, margins, masses, inertias."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def gymnasium_spec(asset: str) -> mujoco.MjSpec:
    """Reads a model from the assets that Gymnasium installs."""
    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjSpec.from_file(str(folder / asset))


def own_spec(asset: str) -> mujoco.MjSpec:
    """Reads a model from this package's assets."""
    return mujoco.MjSpec.from_file(str(Path(__file__).parent / "assets" / asset))


def halve_margins(spec: mujoco.MjSpec) -> None:
    """Restores the contact distances of older engines.

    MuJoCo 3.5 and later add the margins of two touching geoms; older versions used the larger one. If floor
    and limbs have equal margins, halving restores the old distances exactly.
    """
    for geom in spec.geoms:
        geom.margin /= 2


def use_legacy_capsule_inertia(spec: mujoco.MjSpec) -> None:
    """Gives every body that consists of capsules its mass and inertia in engines before MuJoCo 2.1.2.

    For radius r and segment length L, they used a cylinder of height h = L + r: mass ρπr²h, inertia
    m(3r² + h²)/12 across and mr²/2 along. The tasks on these bodies were defined on such engines. If a
    total mass is set, those engines scaled these masses and inertias to it, as `compile_with_mass` does.
    """
    for body in spec.bodies:
        if not body.geoms or any(g.type != mujoco.mjtGeom.mjGEOM_CAPSULE for g in body.geoms):
            continue
        parts = [_legacy_capsule(spec, geom) for geom in body.geoms]
        body.explicitinertial = True
        body.mass = sum(part.mass for part in parts)
        body.ipos = np.sum([part.mass * part.centre for part in parts], axis=0) / body.mass
        if len(parts) == 1:
            body.iquat = _turn_z_to(parts[0].axis)
            body.inertia = [parts[0].across, parts[0].across, parts[0].along]
        else:
            total = np.sum([part.inertia_about(body.ipos) for part in parts], axis=0)
            body.fullinertia = [total[k] for k in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    # "auto" uses values that are set and derives the others from the geoms.
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO


@dataclass(frozen=True)
class _Capsule:
    """Mass in kg, centre in m and direction in the body's frame, and principal inertias in kg·m²."""

    mass: float
    centre: Vector
    axis: Vector
    across: float
    along: float

    def inertia_about(self, point: Vector) -> Vector:
        """Returns the inertia tensor about a point, `(3, 3)`, by the parallel-axis theorem."""
        own = self.across * np.eye(3) + (self.along - self.across) * np.outer(self.axis, self.axis)
        offset = self.centre - point
        return np.asarray(own + self.mass * (offset @ offset * np.eye(3) - np.outer(offset, offset)))


def _legacy_capsule(spec: mujoco.MjSpec, geom: Any) -> _Capsule:
    first, last = np.asarray(geom.fromto[:3]), np.asarray(geom.fromto[3:])
    if not np.isfinite(first[0]):  # given by its centre, orientation and half-length, not by its end points
        half = np.empty(3)
        mujoco.mju_rotVecQuat(half, np.array([0.0, 0.0, geom.size[1]]), _orientation(spec, geom))
        first, last = geom.pos - half, geom.pos + half
    length, radius = float(np.linalg.norm(last - first)), float(geom.size[0])
    height = length + radius
    mass = geom.density * math.pi * radius**2 * height
    across = mass * (3 * radius**2 + height**2) / 12
    return _Capsule(mass, (first + last) / 2, (last - first) / length, across, mass * radius**2 / 2)


def _orientation(spec: mujoco.MjSpec, geom: Any) -> Vector:
    if geom.alt.type == mujoco.mjtOrientation.mjORIENTATION_QUAT:
        return np.asarray(geom.quat)
    compiler = spec.compiler
    return np.asarray(
        spec.resolve_orientation(degree=compiler.degree, sequence=compiler.eulerseq, orientation=geom.alt)
    )


def _turn_z_to(direction: Vector) -> Vector:
    """Returns the quaternion that rotates the z axis to a direction."""
    quaternion = np.empty(4)
    mujoco.mju_quatZ2Vec(quaternion, direction)
    return quaternion


def compile_with_mass(spec: mujoco.MjSpec, total_mass: float | None = None) -> mujoco.MjModel:
    """Compiles a model, scaled to a total mass in kg if one is given.

    Scaling the compiled model gives the same result, bit for bit, as the compiler's `settotalmass`, which
    MuJoCo 4 deprecates.
    """
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if total_mass is not None:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
