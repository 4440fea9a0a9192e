"""Everything except the protocol that is needed to repeat an evaluation."""

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
    """Versions, checksums and arguments of an evaluation.

    Attributes:
        table_sha256: Checksum of the task table of the split, as `metarl_envs.families.tables` defines it.
        model_checksum: Checksum of the compiled model; `None` for bodies without one.
        env_arguments: Arguments of the environments, except the tasks.
        observe_task: Whether the agent's observations contained the task.
        environment: Constructor of the vector environment, as ``module.name``.
        versions: Versions of the packages and of Python.
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
        """Collects the values from the process, the family and the environment.

        Args:
            family: The family.
            split: Name of the split.
            env_arguments: Arguments of the environment, except the tasks.
            observe_task: Whether the agent observes the task.
            env: The vector environment.
            maker: Its constructor.

        Raises:
            ValueError: If `env_arguments` cannot be written as JSON.
        """
        try:
            arguments = json.loads(json.dumps(dict(env_arguments), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"env_arguments must be plain JSON values to be saved with the result: {error}"
            ) from None
        # Computed from the actual tasks: it records what was run, not what should have been run.
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
    # From the metadata, because importing MuJoCo for its version would load it for bodies without a model.
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _model_checksum(owner: Any) -> str | None:
    value = getattr(owner, "model_checksum", None)
    value = value() if callable(value) else value
    return None if value is None else str(value)


def _qualified_name(maker: Any) -> str:
    # A partial or another callable object has no name, but its class has.
    named = maker if hasattr(maker, "__qualname__") else type(maker)
    return f"{named.__module__}.{named.__qualname__}"


def command_line() -> str:
    """The command of this process, quoted for a shell, with programs without their folders."""
    programs, words = sys.orig_argv[:2], sys.orig_argv[2:]
    return shlex.join([*(os.path.basename(program) or program for program in programs), *words])
