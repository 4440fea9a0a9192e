"""A configuration as text: every key with its value and its meaning."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap

from metarl_agents.common.config import RunConfig


def key_meanings(config_class: type[RunConfig]) -> dict[str, str]:
    """Returns key -> meaning, from the `Attributes:` sections of the class and its bases.

    Raises:
        ValueError: a key is not described.
    """
    meanings: dict[str, str] = {}
    for cls in reversed(config_class.__mro__):
        _, _, section = (inspect.cleandoc(cls.__doc__ or "")).partition("Attributes:\n")
        for match in re.finditer(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE):
            meanings[match[1]] = " ".join(match[2].split())
    missing = [f.name for f in dataclasses.fields(config_class) if f.name not in meanings]
    if missing:
        raise ValueError(f"{config_class.__name__} does not describe {', '.join(missing)}")
    return meanings


def describe_config(config: RunConfig) -> str:
    """Returns a configuration as TOML, with the meaning of each key above it."""
    meanings = key_meanings(type(config))
    lines = []
    for name, value in config.to_dict().items():
        lines += textwrap.wrap(meanings[name], 98, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
