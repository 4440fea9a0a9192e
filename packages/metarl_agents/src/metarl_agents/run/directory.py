"""Reading and writing of the description of a run and of its versions."""

import itertools
import json
import platform
import shlex
import sys
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


class RunError(RuntimeError):
    """A run directory cannot be used for this purpose; the message gives the reason."""


def read_description(folder: Path) -> tuple[dict[str, Any], RunConfig]:
    """The contents of a run's `config.json`, and the configuration in it.

    Raises:
        RunError: when the directory is not a run.
    """
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config_class = find_agent(description["agent"]).load().config_class
        return description, config_class().replace(description["config"])
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{folder} is not the directory of a run: {error}") from error


def recorded_products(folder: Path) -> str:
    """The library for the run's matrix products; see `metarl_agents.common.matrix_products`.

    Runs made before there was a choice do not record it; they use the default.

    Raises:
        RunError: when the run's `versions.json` cannot be read or has another value.
    """
    path = folder / "versions.json"
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("matrix_products", "default")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read, so the run cannot be resumed: {error}") from error
    if name not in ("default", "onednn"):
        raise RunError(f"matrix_products in {path} must be 'default' or 'onednn', not {name!r}")
    return str(name)


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
