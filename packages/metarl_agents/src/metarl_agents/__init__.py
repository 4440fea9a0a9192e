"""Reference meta-reinforcement-learning agents on Tianshou.

Names are imported when first used: `from metarl_agents import PEARL` loads that agent alone.
"""

from importlib import import_module
from typing import Any

from metarl_agents.registry import AGENTS, AgentEntry, find_agent

_LAZY = {entry.class_name: entry.class_path.partition(":")[0] for entry in AGENTS.values()} | {
    "RunResult": "metarl_agents.run.train",
    "adapt_run": "metarl_agents.run.adapt",
    "evaluate_run": "metarl_agents.run.evaluate",
    "load_agent": "metarl_agents.run.evaluate",
    "resume": "metarl_agents.run.train",
    "train": "metarl_agents.run.train",
}

__all__ = ["AGENTS", "AgentEntry", "find_agent", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
