"""The option `--fast`, for a first answer in under a minute; see CONTRIBUTING.md."""

import pytest
from representatives import BODY_IDS, IDS


def pytest_addoption(parser):
    parser.addoption(
        "--fast", action="store_true", help="one id per body, without the markers `process` and `long`"
    )


def _is_fast(item):
    """Whether a test belongs to the fast selection."""
    if item.get_closest_marker("process") or item.get_closest_marker("long"):
        return False
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    family_id = parameters.get("family_id")
    only_defaults = not set(parameters.get("arguments", ())) - {"observe_task"}
    return only_defaults and (family_id in BODY_IDS or family_id not in IDS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("fast"):
        kept = [item for item in items if _is_fast(item)]
        config.hook.pytest_deselected(items=[item for item in items if not _is_fast(item)])
        items[:] = kept
