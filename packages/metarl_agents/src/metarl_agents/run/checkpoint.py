"""Checkpoints. They are written completely or not at all, and loading executes no code.

A checkpoint is a directory with `weights.safetensors` (networks), `training.safetensors`
(optimisers, replay buffer, environment, generators) and `state.json` (counters, generator states,
digests of the other two files). Nothing in it is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

FORMAT = 1
WEIGHTS, TRAINING, STATE = "weights.safetensors", "training.safetensors", "state.json"


class CheckpointError(RuntimeError):
    """There is no checkpoint, or it is damaged."""


@dataclass
class Checkpoint:
    """The complete state of a run.

    Attributes:
        weights: the networks' parameters by name.
        arrays: everything else that is large, by name.
        values: everything else, convertible to JSON.
    """

    weights: dict[str, Tensor]
    arrays: dict[str, NDArray[Any]]
    values: dict[str, Any]


def write_checkpoint(folder: Path, iteration: int, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint and then removes older ones.

    The files are written and synced under a temporary name, which is then renamed. A complete
    checkpoint is therefore available at all times.

    Args:
        folder: directory of the run's checkpoints; created when missing.
        iteration: the iteration after which the state was taken.
        checkpoint: the state.

    Returns:
        The directory of the checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{iteration:08d}"
    temporary = folder / f".{iteration:08d}.writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()},
        temporary / WEIGHTS,
    )
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()},
        temporary / TRAINING,
    )
    state = {
        "format": FORMAT,
        "digests": {name: digest(temporary / name) for name in (WEIGHTS, TRAINING)},
        "values": checkpoint.values,
    }
    (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    sync(folder)
    for path in folder.iterdir():
        if path != final:
            shutil.rmtree(path, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """Directory of the newest checkpoint, or None when there is none."""
    found = sorted(path for path in folder.glob("[0-9]*") if path.is_dir())
    return found[-1] if found else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The networks' parameters of a checkpoint.

    Raises:
        CheckpointError: when a file is missing or differs from what was written.
    """
    verified_state(path)
    return safetensors.torch.load_file(path / WEIGHTS)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a complete checkpoint.

    Raises:
        CheckpointError: when a file is missing or differs from what was written.
    """
    state = verified_state(path)
    return Checkpoint(
        weights=safetensors.torch.load_file(path / WEIGHTS),
        arrays=safetensors.numpy.load_file(path / TRAINING),
        values=state["values"],
    )


def verified_state(path: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint, after a comparison of its digests with the files."""
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {state['format']}; this version reads {FORMAT}"
            )
        damaged = [name for name, value in state["digests"].items() if digest(path / name) != value]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a complete checkpoint: {error}") from error
    if damaged:
        raise CheckpointError(f"{path / damaged[0]} is damaged: its checksum does not match")
    return state


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays or tensors under `prefix.name`, as NumPy arrays."""
    return {
        f"{prefix}.{name}": value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        for name, value in arrays.items()
    }


def unprefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays that `prefixed` stored under this prefix."""
    start = prefix + "."
    return {k.removeprefix(start): array for k, array in arrays.items() if k.startswith(start)}


def optimiser_tensors(optimiser: Any) -> dict[str, Tensor]:
    """State tensors of a PyTorch optimiser, e.g. Adam's moments, by parameter number and name."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entries in state.items() for name, tensor in entries.items()}


def load_optimiser_tensors(optimiser: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Restores what `optimiser_tensors` returned; hyperparameters are not changed."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in arrays.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = torch.from_numpy(array.copy())
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
