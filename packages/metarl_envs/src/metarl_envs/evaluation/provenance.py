"""Everything besides the protocol that is needed to repeat an evaluation."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from metarl_envs.families.tables import checksum

_DISTRIBUTIONS = ("metarl-envs", "gymnasium", "mujoco", "numpy")


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from.

    Attributes:
        table_sha256: Checksum of the task table of the split, as `metarl_envs.families.tables` defines it.
        model_checksum: Checksum of the compiled model; `None` for bodies without one.
        env_arguments: Arguments that the environments were made with, besides the tasks.
        observe_task: Whether the agent saw the task in its observations.
        environment: What made the vector environment, as ``module.name``.
        versions: Version by distribution, Python's included.
        platform: Operating system and processor.
        command_line: The command that ran the evaluation, quoted for a shell.
        created: Time at which the evaluation began, ISO 8601 in UTC.
    """

    table_sha256: str
    model_checksum: str | None
    env_arguments: Mapping[str, Any]
    observe_task: bool
    environment: str
    versions: Mapping[str, str]
    platform: str
    command_line: str
    created: str

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def collect(
        cls,
        family: Any,
        split: str,
        *,
        env_arguments: Mapping[str, Any],
        observe_task: bool,
        env: Any,
        maker: Any,
    ) -> Provenance:
        """Ask the running process, the family and the environment for everything.

        Args:
            family: The family.
            split: Name of the split.
            env_arguments: Arguments of the environment, besides the tasks.
            observe_task: Whether the agent sees the task.
            env: The vector environment.
            maker: What made it.

        Raises:
            ValueError: If `env_arguments` cannot be written as JSON.
        """
        try:
            arguments = json.loads(json.dumps(dict(env_arguments), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"env_arguments must be plain JSON values to be saved with the result: {error}"
            ) from None
        # Computed from the tasks at hand: it says what was run, not what should have been.
        rows = np.array([task.parameters for task in family.tasks(split)], np.float64)
        return cls(
            table_sha256=checksum(family.id, split, rows),
            model_checksum=_model_checksum(env) or _model_checksum(family),
            env_arguments=arguments,
            observe_task=observe_task,
            environment=_qualified_name(maker),
            versions={
                "python": platform.python_version(),
                **{name: _version(name) for name in _DISTRIBUTIONS},
            },
            platform=platform.platform(),
            command_line=command_line(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _version(distribution: str) -> str:
    # From the metadata: importing MuJoCo for its number would load it for bodies without a model.
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _model_checksum(owner: Any) -> str | None:
    value = getattr(owner, "model_checksum", None)
    value = value() if callable(value) else value
    return None if value is None else str(value)


def _qualified_name(maker: Any) -> str:
    # A partial or another callable object has no name of its own, but its class has.
    named = maker if hasattr(maker, "__qualname__") else type(maker)
    return f"{named.__module__}.{named.__qualname__}"


def command_line() -> str:
    """The command of this process, quoted for a shell, programs without the folders they lie in."""
    programs, words = sys.orig_argv[:2], sys.orig_argv[2:]
    return shlex.join([*(os.path.basename(program) or program for program in programs), *words])
