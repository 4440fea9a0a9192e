"""The compiled models as part of a family's frozen definition: their checksums."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl_envs.families import tables
from metarl_envs.families.family import Family

if TYPE_CHECKING:
    import mujoco

# Appearance, names and storage of a model do not affect its motion.
_APPEARANCE = (
    "bvh", "cam", "flexvert", "light", "mat", "mesh", "name", "oct", "path", "plugin_attr", "skin",
    "tex", "text",
)  # fmt: skip
_OPTIONS = (
    "ccd_iterations", "ccd_tolerance", "cone", "density", "enableflags", "gravity", "impratio",
    "integrator", "iterations", "jacobian", "ls_iterations", "ls_tolerance", "magnetic",
    "noslip_iterations", "noslip_tolerance", "o_friction", "o_margin", "o_solimp", "o_solref",
    "solver", "timestep", "tolerance", "viscosity", "wind",
)  # fmt: skip

_checked: set[tuple[str, str]] = set()


def mujoco_minor_version() -> str:
    """Returns the installed MuJoCo's version without its patch number, e.g. `3.17`."""
    import mujoco

    return ".".join(mujoco.__version__.split(".")[:2])


def model_checksum(model: mujoco.MjModel) -> str:
    """Returns the SHA-256 of all parts of a model that affect its motion.

    Numbers are rounded to float32, so that compilers that differ in the last digits agree.
    """
    digest = hashlib.sha256()
    for name in sorted(dir(model)):
        if name.startswith(("_", *_APPEARANCE)) or name.endswith("rgba"):
            continue
        value = getattr(model, name)
        if isinstance(value, np.ndarray) and value.size:
            _add(digest, name, value)
    for name in _OPTIONS:
        if hasattr(model.opt, name):
            _add(digest, f"opt.{name}", np.asarray(getattr(model.opt, name)))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, value: np.ndarray) -> None:
    # Adding zero makes -0.0 the same as 0.0.
    numbers = value.astype("<f4") + 0.0 if value.dtype.kind == "f" else value.astype("<i8")
    digest.update(f"{name}{numbers.shape}".encode())
    digest.update(numbers.tobytes())


def variants(family: Family) -> list[dict[str, Any]]:
    """Returns the arguments of every model of a family: first the defaults, then each other choice alone."""
    others = [
        {argument.name: choice}
        for argument in family.arguments.values()
        if argument.changes_model
        for choice in argument.choices
        if choice != argument.default
    ]
    return [{}, *others]


def record_key(family: Family, arguments: Mapping[str, Any]) -> str:
    """Returns the key in `checksums.json` of a model of the installed MuJoCo, e.g. `3.17 inertia=legacy`."""
    changes = (
        f"{name}={arguments[name]}"
        for name, argument in sorted(family.arguments.items())
        if argument.changes_model and arguments.get(name, argument.default) != argument.default
    )
    return " ".join((mujoco_minor_version(), *changes))


def recorded_checksum(family: Family, arguments: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """Returns the recorded checksum for the installed MuJoCo, or None if none was recorded.

    Args:
        family: the family.
        arguments: the family's arguments of the model; others have their defaults.
    """
    found = tables.checksums(family.directory)["models"].get(family.id, {}).get(record_key(family, arguments))
    return None if found is None else str(found)


def check_model(family: Family, model: mujoco.MjModel, arguments: Mapping[str, Any]) -> None:
    """Warns, once per process and model of a family, if the model is not the frozen one.

    A MuJoCo version without a recorded checksum is not checked.
    """
    checked = (family.id, record_key(family, arguments))
    if checked in _checked:
        return
    _checked.add(checked)
    recorded = recorded_checksum(family, arguments)
    if recorded is not None and recorded != model_checksum(model):
        warnings.warn(
            f"the compiled model of {family.id} is not the frozen one for MuJoCo"
            f" {mujoco_minor_version()}: an asset has changed, so results are not comparable with others"
            " (is another version of gymnasium installed?)",
            stacklevel=2,
        )
