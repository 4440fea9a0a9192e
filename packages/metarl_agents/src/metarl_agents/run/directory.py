"""Reading and writing of the description of a run and of its versions."""

import hashlib
import itertools
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import metarl_envs
from metarl_agents.common.config import ConfigError, RunConfig
from metarl_agents.registry import find_agent
from metarl_envs import evaluation
from metarl_envs.files import atomic_path

#: Packages whose versions affect the results of a run.
PACKAGES = (
    "metarl-agents", "metarl-envs", "torch", "tianshou", "numpy", "gymnasium", "mujoco",
    "safetensors",
)  # fmt: skip


#: Version of the format of a run's directory, in its `config.json`.
FORMAT = 2
#: The entry of `config.json` with the SHA-256 of all others.
DIGEST = "digest"
#: The lock of a run's directory.
LOCK = ".lock"
#: A larger `config.json` is none.
MAX_BYTES = 1_000_000
_TYPES: dict[str, tuple[type, ...]] = {
    "agent": (str,), "env_id": (str,), "preset": (str,), "overrides": (dict,), "seed": (int,),
    "device": (str,), "threads": (int,), "command": (str,), "config": (dict,),
}  # fmt: skip
_COUNTS = {"seed": 0, "threads": 1, "actors": 0}


#: What a run writes itself. A pipe in place of one would be waited for, and a link would lead out of the run.
_FILES = (
    "config.json", "versions.json", "metrics.jsonl", "timing.jsonl", "evaluations.jsonl", "log.txt", LOCK,
)  # fmt: skip
_FOLDERS = ("checkpoints", "tensorboard", "wandb")


class RunError(RuntimeError):
    """A run directory cannot be used for this purpose; the message gives the reason."""


def check_own_files(folder: Path) -> None:
    """Refuses a run of which a file is a link or no file, or a folder no folder.

    Raises:
        RunError: when there is one.
    """
    for names, what in ((_FILES, "file"), (_FOLDERS, "folder")):
        for path in (folder / name for name in names):
            sound = path.is_file() if what == "file" else path.is_dir()
            if path.is_symlink() or (path.exists() and not sound):
                raise RunError(
                    f"{path} is a link or not a {what}; a link of the whole run's directory is fine"
                )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
        OSError: when it is missing, or not a file: a pipe or a device would be read for ever.
        ValueError: when it has no JSON object.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is missing or not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES:,} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} must have an object, not {type(found).__name__}")
    return found


def read_entries(folder: Path) -> dict[str, Any]:
    """The contents of a run's `config.json` of any format, for readers of metrics and reports.

    Raises:
        RunError: when the directory is not a run.
    """
    try:
        description = read_json(folder / "config.json")
        _check_entries(description)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not the directory of a run: {error}") from error
    return description


def read_description(folder: Path) -> tuple[dict[str, Any], RunConfig]:
    """The contents of a run's `config.json`, and the configuration in it.

    Raises:
        RunError: when the directory is not a run, or of a format that this version does not read.
    """
    try:
        description = read_json(folder / "config.json")
        _check_description(description)
        metarl_envs.family(description["env_id"])
        config_class = find_agent(description["agent"]).load().config_class
        config = config_class().replace(description["config"])
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not the directory of a run: {error}") from error
    return description, config


def _check_description(description: dict[str, Any]) -> None:
    """Refuses what is not the description of a run of this format."""
    _check_entries(description)
    if description.get("format") != FORMAT:
        raise ValueError(
            f"it has format {description.get('format', 'unnumbered')}, and this version reads {FORMAT}; runs "
            "with an unnumbered format are from before 0.1.0: their reports and metrics can be read, but "
            "they cannot be continued or evaluated"
        )
    if description.get(DIGEST) != _digest(description):
        raise ValueError(
            "config.json is not as it was written; settings are given when a run is started (--set), its "
            "number of steps also when it is continued (metarl resume --steps)"
        )


def _check_entries(description: dict[str, Any]) -> None:
    """Refuses missing entries, and values of wrong types."""
    for name, kinds in _TYPES.items():
        if name not in description:
            raise ValueError(f"config.json has no entry {name!r}")
        if not isinstance(description[name], kinds) or isinstance(description[name], bool):
            raise ValueError(f"{name} in config.json must be of type {kinds[0].__name__}")
    for name, least in _COUNTS.items():
        value = description.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise ValueError(f"{name} in config.json must be a whole number of at least {least}")


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes a run's `config.json` with its digest."""
    write_json(folder / "config.json", {**description, DIGEST: _digest(description)})


def _digest(description: Mapping[str, Any]) -> str:
    entries = {name: value for name, value in description.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def recorded_products(folder: Path) -> str:
    """The library for the run's matrix products; see `metarl_agents.common.matrix_products`.

    Runs made before there was a choice do not record it; they use the default.

    Raises:
        RunError: when the run's `versions.json` cannot be read or has another value.
    """
    path = folder / "versions.json"
    try:
        name = read_json(path).get("matrix_products", "default")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read, so the run cannot be resumed: {error}") from error
    if name not in ("default", "onednn"):
        raise RunError(f"matrix_products in {path} must be 'default' or 'onednn', not {name!r}")
    return str(name)


def changed_versions(folder: Path) -> str | None:
    """What differs from the versions a run was started with and makes its continuation another one; or None.

    Raises:
        RunError: when the run's `versions.json` cannot be read.
    """
    path = folder / "versions.json"
    try:
        before = read_json(path)["packages"]
        changes = [
            f"{name} {before.get(name, 'unknown')} -> {version(name)}"
            for name in PACKAGES
            if before.get(name) != version(name)
        ]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"{path} cannot be read, so the run cannot be resumed: {error}") from error
    if not changes:
        return None
    return (
        "this machine has other versions than the run was started with, so the result is not that of an "
        f"uninterrupted run, bit for bit: {', '.join(changes)}"
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes values as readable JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def check_device(device: str) -> None:
    """Raises an error early if the device is not available.

    Raises:
        ConfigError: for a device that PyTorch does not know or cannot use.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device!r} cannot be used: {error}") from None


def versions(family: metarl_envs.Family) -> dict[str, Any]:
    """Versions and checksums on which the results of a run depend."""
    env = metarl_envs.MetaVectorEnv(family, 1)
    sources = {
        split: evaluation.Provenance.collect(
            family,
            split,
            env_arguments={},
            observe_task=False,
            env=env,
            maker=metarl_envs.MetaVectorEnv,
        )
        for split in family.splits
    }
    env.close()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "tables": {split: source.table_sha256 for split, source in sources.items()},
        "model": sources["train"].model_checksum,
    }


def core_seconds(run: Path) -> float | None:
    """CPU seconds of a run, those of all its calls together; None if it did not record them.

    Time after the last checkpoint of a call that was killed is not counted.
    """
    try:
        lines = (run / "timing.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = [json.loads(line)["seconds_cpu"] for line in lines]
    except (OSError, KeyError, ValueError):
        return None
    # The clock starts again with every call: a call ends where the next line is smaller.
    ends = [a for a, b in itertools.pairwise([*seconds, 0.0]) if b < a]
    return float(sum(ends))


def this_command() -> str:
    """The command of this process, without the folder of the program, which has no meaning elsewhere."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
