"""The bodies, one module each, and their names in specifications."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metarl_envs.bodies.base import Body

BODIES = {
    "ant": "metarl_envs.bodies.ant:Ant",
    "ant_short": "metarl_envs.bodies.ant:AntShort",
    "cmu_humanoid": "metarl_envs.bodies.cmu_humanoid:CMUHumanoid",
    "half_cheetah": "metarl_envs.bodies.half_cheetah:HalfCheetah",
    "half_cheetah_short": "metarl_envs.bodies.half_cheetah:HalfCheetahShort",
    "hopper": "metarl_envs.bodies.planar_runner:Hopper",
    "humanoid": "metarl_envs.bodies.humanoid:Humanoid",
    "jaco": "metarl_envs.bodies.jaco:Jaco",
    "move_box_ball": "metarl_envs.bodies.ball:MoveBoxBall",
    "point": "metarl_envs.bodies.point:Point",
    "quadruped": "metarl_envs.bodies.quadruped:Quadruped",
    "reacher2": "metarl_envs.bodies.reacher:Reacher2",
    "reacher4": "metarl_envs.bodies.reacher:Reacher4",
    "simple_humanoid": "metarl_envs.bodies.humanoid:SimpleHumanoid",
    "small_ant": "metarl_envs.bodies.ant:SmallAnt",
    "walker2d": "metarl_envs.bodies.planar_runner:Walker2d",
    "wheeled": "metarl_envs.bodies.wheeled:Wheeled",
}
"""Body name in a specification -> module and class. Imported on use, because most need MuJoCo."""


def body_class(name: str) -> type[Body]:
    """Returns the class of a body in `BODIES`, or of one given as `package.module:Class`."""
    module, attribute = BODIES.get(name, name).split(":")
    found: type[Body] = getattr(import_module(module), attribute)
    return found
