"""The part of a specification that decides what its tasks are and what happens in them, with its checksums.

Prose (titles, descriptions, provenance, history, units) can be improved at any time. Everything else is
frozen with the tables. It is divided into sections, each with a checksum of its own, so that a split, an
argument or a subset can be added later without touching what is frozen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SECTIONS = {
    "simulation": ("body", "objective", "horizon", "fixed_starts", "body_options", "objective_options"),
    "tasks": ("parameters", "distribution", "table", "train_equals_test"),
}
_NAMED = ("splits", "subsets", "arguments")
_PROSE = ("doc", "units")


def definition(content: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of every section of a specification.

    Args:
        content: the parsed TOML, checked.

    Returns:
        Section -> checksum: `simulation`, `tasks`, and one for every split, subset and argument, e.g.
        `splits.train`.
    """
    sections: dict[str, Any] = {
        name: {key: content[key] for key in keys if key in content} for name, keys in _SECTIONS.items()
    }
    for kind in _NAMED:
        sections |= {f"{kind}.{name}": row for name, row in content.get(kind, {}).items()}
    return {name: _checksum(name, section) for name, section in sections.items()}


def _checksum(name: str, section: Any) -> str:
    text = json.dumps([name, _without_prose(section)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_prose(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_prose(entry) for key, entry in value.items() if key not in _PROSE}
    return value


def differences(defined: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """Returns what of a specification is not as it was frozen; empty when everything is.

    Args:
        defined: section -> checksum, of the specification.
        recorded: section -> checksum, as it was frozen.
    """
    found = []
    for name, checksum in defined.items():
        if name not in recorded:
            found.append(f"{name} is not frozen yet (`metarl-envs tasks freeze`)")
        elif recorded[name] != checksum:
            found.append(f"{name} is not as it was frozen")
    return found + [f"{name} was frozen and is missing" for name in recorded if name not in defined]
