"""The names that Tianshou keeps private and `metarl_agents.common.trainers` uses."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.trainer import OffPolicyTrainer, OnlineTrainer, OnPolicyTrainer, Trainer

import metarl_agents
from metarl_agents.common.trainers import torch_optimiser

SOURCES = Path(metarl_agents.__file__).parent
#: Private names of Tianshou, and the one file that may use each.
PRIVATE = {
    "_optim": "common/trainers.py",
    "_pbar": "common/trainers.py",
    "_policy_update_time": "common/trainers.py",
    "_update_moving_avg_stats_and_log_update_data": "common/trainers.py",
    "_update_step": "common/trainers.py",
    "_optimizers": "common/algorithm.py",
    "_STATE_DICT_KEY_OPTIMIZERS": "common/algorithm.py",
}


def attributes(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return used | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.long
@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_is_used_in_one_file(name):
    users = [
        str(path.relative_to(SOURCES)) for path in sorted(SOURCES.rglob("*.py")) if name in attributes(path)
    ]
    assert users == [PRIVATE[name]]


def test_the_private_names_are_still_there():
    assert isinstance(inspect.getattr_static(Trainer, "_pbar"), property)
    for trainer in (OffPolicyTrainer, OnPolicyTrainer):
        assert list(inspect.signature(trainer._update_step).parameters)[:2] == ["self", "collect_stats"]
    # Who calls the update step, and what the on-policy trainer's own does around each update.
    assert "self._update_step(" in inspect.getsource(OnlineTrainer)
    own = inspect.getsource(OnPolicyTrainer._update_step)
    assert "self._policy_update_time +=" in own
    assert "self._update_moving_avg_stats_and_log_update_data(" in own
    assert re.search(r"_STATE_DICT_KEY_OPTIMIZERS\s*=", inspect.getsource(Algorithm))
    assert "self._optimizers" in inspect.getsource(Algorithm)


def test_the_optimiser_of_an_optimiser():
    model = torch.nn.Linear(2, 1)
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    assert torch_optimiser(Algorithm.Optimizer(adam, model)) is adam
