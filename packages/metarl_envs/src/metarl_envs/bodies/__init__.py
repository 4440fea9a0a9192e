"""The bodies, one module each, found by the name that a specification gives."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metarl_envs.bodies.base import Body

BODIES = {
    "ant": "metarl_envs.bodies.ant:Ant",
    "half_cheetah": "metarl_envs.bodies.half_cheetah:HalfCheetah",
    "point": "metarl_envs.bodies.point:Point",
}
"""Body name in a specification -> where its class is. Imported on use, because most need MuJoCo."""


def body_class(name: str) -> type[Body]:
    """Returns the class of a body in `BODIES`."""
    module, attribute = BODIES[name].split(":")
    found: type[Body] = getattr(import_module(module), attribute)
    return found
