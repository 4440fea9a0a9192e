"""Registration of the families in Gymnasium."""

from __future__ import annotations

import gymnasium

from metarl_envs.families import schema, tables
from metarl_envs.families.specs import HORIZON, read_toml, registered_ids


def register_families() -> None:
    """Registers every family in `tasks_spec/` under its id.

    Only the time limit is read here; the rest of a specification is checked when the family is first used.
    """
    for family_id in registered_ids():
        if family_id in gymnasium.registry:
            continue
        file = f"{family_id}.toml"
        content = read_toml(tables.spec_directory() / file)
        horizon = {k: v for k, v in content.items() if k == "horizon"}
        schema.check(file, "", horizon, {"horizon": HORIZON})
        gymnasium.register(
            id=family_id,
            entry_point="metarl_envs.env:MetaEnv",
            vector_entry_point="metarl_envs.vector_env:MetaVectorEnv",
            max_episode_steps=content["horizon"],
            kwargs={"family": family_id, "split": "train", "task": None, "observe_task": False},
        )
