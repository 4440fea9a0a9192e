"""The option `--fast`, for a first answer in under a minute (see CONTRIBUTING.md), and shared fixtures."""

import os

# Before PyTorch and NumPy are loaded, here and in child processes: the workers share the cores, and a second
# thread of OpenMP in each would wait in a loop for a core that another worker has.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import pytest
from representatives import BODY_IDS, ENGINE_IDS, IDS

from metarl_envs.families import directories, specs, tables


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    before = set(gymnasium.registry)
    caches = (specs.registered_ids, specs._family, tables.checksums)
    monkeypatch.setattr(directories, "_added", [])
    yield
    for family_id in set(gymnasium.registry) - before:
        del gymnasium.registry[family_id]
    for cache in caches:
        cache.cache_clear()


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="few ids, without the markers `process` and `long`")


def _is_fast(item):
    """Whether a test belongs to the fast selection."""
    if item.get_closest_marker("process") or item.get_closest_marker("long"):
        return False
    parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    family_id = parameters.pop("family_id", None)
    if set(parameters.pop("arguments", ())) - {"observe_task"}:
        return False
    return family_id not in IDS or family_id in (ENGINE_IDS if parameters else BODY_IDS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("fast"):
        kept = [item for item in items if _is_fast(item)]
        config.hook.pytest_deselected(items=[item for item in items if not _is_fast(item)])
        items[:] = kept
