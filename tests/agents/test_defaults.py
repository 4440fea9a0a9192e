"""The default values of all configurations, which are those of the papers, stated a second time.

After a deliberate change: `python tests/agents/test_defaults.py` writes `defaults.json` anew.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from metarl_agents.registry import AGENTS

FILE = Path(__file__).with_name("defaults.json")


def defaults(agent):
    algorithm = AGENTS[agent].load()
    config = algorithm.config_class()
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return json.loads(json.dumps({"observe_task": algorithm.observe_task, **values}))


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_defaults_change_deliberately_only(agent):
    assert defaults(agent) == json.loads(FILE.read_text())[agent]


if __name__ == "__main__":
    FILE.write_text(json.dumps({agent: defaults(agent) for agent in sorted(AGENTS)}, indent=1) + "\n")
