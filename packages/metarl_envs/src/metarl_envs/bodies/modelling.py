"""Getting a model as it was when its tasks were defined: sources, margins, masses, inertias."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import mujoco
import numpy as np


def gymnasium_spec(asset: str) -> mujoco.MjSpec:
    """Reads a model from the assets that Gymnasium installs."""
    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjSpec.from_file(str(folder / asset))


def own_spec(asset: str) -> mujoco.MjSpec:
    """Reads a model from this package's assets."""
    return mujoco.MjSpec.from_file(str(Path(__file__).parent / "assets" / asset))


def halve_margins(spec: mujoco.MjSpec) -> None:
    """Restores the contact distances of older engines.

    MuJoCo 3.5 and later add the margins of two touching geoms where older versions took the larger. Where
    floor and limbs have equal margins, halves restore it exactly.
    """
    for geom in spec.geoms:
        geom.margin /= 2


def use_legacy_capsule_inertia(spec: mujoco.MjSpec) -> None:
    """Gives every body that is one capsule the mass and inertia of engines before MuJoCo 2.1.2.

    With radius r and segment length L they took a cylinder of height h = L + r: mass ρπr²h, inertia
    m(3r² + h²)/12 across and mr²/2 along. The tasks on these bodies were defined on such engines.
    """
    for body in spec.bodies:
        if len(body.geoms) != 1 or body.geoms[0].type != mujoco.mjtGeom.mjGEOM_CAPSULE:
            continue
        geom = body.geoms[0]
        # The assets give capsules by their end points.
        first, last = geom.fromto[:3], geom.fromto[3:]
        if not np.isfinite(first[0]):
            raise ValueError(f"the capsule {geom.name} has no end points")
        radius, height = geom.size[0], float(np.linalg.norm(last - first)) + geom.size[0]
        mass = geom.density * math.pi * radius**2 * height
        across = mass * (3 * radius**2 + height**2) / 12
        body.explicitinertial = True
        body.mass = mass
        body.ipos = (first + last) / 2
        body.iquat = _turn_z_to((last - first) / np.linalg.norm(last - first))
        body.inertia = [across, across, mass * radius**2 / 2]
    # "auto" takes what is written and derives the rest from the geoms.
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO


def _turn_z_to(direction: np.ndarray) -> np.ndarray:
    """Returns the quaternion that turns the z axis to a direction."""
    quaternion = np.empty(4)
    mujoco.mju_quatZ2Vec(quaternion, direction)
    return quaternion


def compile_with_mass(spec: mujoco.MjSpec, total_mass: float | None = None) -> mujoco.MjModel:
    """Compiles a model, scaled to a total mass in kg if one is given.

    Scaling the compiled model is bit for bit what the compiler's `settotalmass` does, which MuJoCo 4
    deprecates.
    """
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if total_mass is not None:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
