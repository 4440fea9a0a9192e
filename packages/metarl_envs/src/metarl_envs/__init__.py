"""Meta-reinforcement-learning task families as Gymnasium environments.

Importing this package registers every family with Gymnasium, and imports no simulator:

    import gymnasium, metarl_envs
    env = gymnasium.make("MetaAnt-Goal-v0", split="test", task=3)
    envs = gymnasium.make_vec("MetaAnt-Goal-v0", num_envs=64)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metarl_envs.families.family import Family
from metarl_envs.families.registration import register_families, register_plugins, register_specs
from metarl_envs.families.schema import SpecError
from metarl_envs.families.specs import family, registered_ids
from metarl_envs.families.task import Task

if TYPE_CHECKING:
    from metarl_envs.env import MetaEnv
    from metarl_envs.reward_model import RewardModel
    from metarl_envs.vector_env import MetaVectorEnv

__version__ = "0.1.0"

__all__ = [
    "Family",
    "MetaEnv",
    "MetaVectorEnv",
    "RewardModel",
    "SpecError",
    "Task",
    "__version__",
    "family",
    "register_specs",
    "registered_ids",
]


def __getattr__(name: str) -> Any:
    # The environments need the vector machinery of Gymnasium; the ids do not.
    if name == "MetaEnv":
        from metarl_envs.env import MetaEnv

        return MetaEnv
    if name == "RewardModel":
        from metarl_envs.reward_model import RewardModel

        return RewardModel
    if name == "MetaVectorEnv":
        from metarl_envs.vector_env import MetaVectorEnv

        return MetaVectorEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_families()
# After everything else: the package of a plug-in may import this one.
register_plugins()
