"""Checkpoints. They are written completely or not at all, and loading executes no code.

A checkpoint is a directory with `weights.safetensors` (networks), `training.safetensors`
(optimisers, replay buffer, environment, generators), `state.json` (counters, generator states,
digests of these two files) and `state.sha256` (digest of `state.json`). All digests are compared before
anything is used. Nothing in it is pickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

FORMAT = 2
WEIGHTS, TRAINING, STATE = "weights.safetensors", "training.safetensors", "state.json"
#: The digest of `STATE`, which has those of the other files.
SEAL = "state.sha256"
#: Number of checkpoints that are kept: the newest one, and the one before in case it is damaged.
KEPT = 2
_NAME = re.compile(r"\d{8}")
_TEMPORARY = re.compile(r"\.\d{8}\.writing")


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
    """Writes a checkpoint and then removes older ones, but the one before.

    The files are written and synced under a temporary name, which is then renamed. A complete
    checkpoint is therefore available at all times. Only directories with the names of checkpoints are
    removed, and links are not followed.

    Args:
        folder: directory of the run's checkpoints; created when missing.
        iteration: the iteration after which the state was taken.
        checkpoint: the state.

    Returns:
        The directory of the checkpoint.

    Raises:
        CheckpointError: when the folder is a link.
    """
    refuse_link(folder)
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
    (temporary / SEAL).write_text(digest(temporary / STATE) + "\n", encoding="utf-8")
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    sync(folder)
    old = checkpoints(folder)
    old.remove(final)
    for path in (*old[: 1 - KEPT], *_named(folder, _TEMPORARY)):
        shutil.rmtree(path, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run from the oldest to the newest; other files and links are none.

    Raises:
        CheckpointError: when the folder is a link.
    """
    refuse_link(folder)
    return sorted(_named(folder, _NAME))


def newest_checkpoint(folder: Path) -> Path | None:
    """Directory of the newest checkpoint, or None when there is none.

    Raises:
        CheckpointError: when the folder is a link.
    """
    found = checkpoints(folder)
    return found[-1] if found else None


def set_aside(folder: Path, iteration: int) -> None:
    """Renames all checkpoints after that of an iteration, so that the run continues from it.

    Raises:
        CheckpointError: when there is no such checkpoint, or it is damaged.
    """
    wanted = folder / f"{iteration:08d}"
    found = checkpoints(folder)
    if wanted not in found:
        known = ", ".join(str(int(path.name)) for path in found) or "none"
        raise CheckpointError(f"{folder} has no checkpoint of iteration {iteration}; it has: {known}")
    verified_state(wanted)
    for path in found[found.index(wanted) + 1 :]:
        target = path.with_name(f"{path.name}.aside")
        shutil.rmtree(target, ignore_errors=True)
        os.rename(path, target)


def refuse_link(folder: Path) -> None:
    """Raises an error for a folder that is a link: checkpoints are removed, and what it leads to is not ours.

    Raises:
        CheckpointError: when it is a link.
    """
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link; move the checkpoints there, or link the run's directory")


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if pattern.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


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
    """The `state.json` of a checkpoint, after a comparison of all digests with the files.

    Raises:
        CheckpointError: when a file is missing or differs from what was written; the message names an older
            checkpoint that is intact, if there is one.
    """
    try:
        return _verified_state(path)
    except CheckpointError as error:
        for older in reversed([p for p in checkpoints(path.parent) if p.name < path.name]):
            try:
                _verified_state(older)
            except CheckpointError:
                continue
            raise CheckpointError(
                f"{error}; the checkpoint before it is intact: continue from there with "
                f"metarl resume {path.parent.parent} --checkpoint {int(older.name)}"
            ) from error
        raise


def _verified_state(path: Path) -> dict[str, Any]:
    try:
        for name in (SEAL, STATE, WEIGHTS, TRAINING):
            # A pipe or a device would be read for ever.
            if not (path / name).is_file() or (path / name).is_symlink():
                raise CheckpointError(f"{path} is not a complete checkpoint: {name} is missing or not a file")
        text = (path / STATE).read_bytes()
        if hashlib.sha256(text).hexdigest() + "\n" != (path / SEAL).read_text(encoding="utf-8"):
            raise CheckpointError(f"{path / STATE} is damaged: its checksum does not match that in {SEAL}")
        state: dict[str, Any] = json.loads(text)
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {state['format']}; this version reads {FORMAT}"
            )
        damaged = [name for name in (WEIGHTS, TRAINING) if digest(path / name) != state["digests"][name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a complete checkpoint: {error}") from error
    if damaged:
        raise CheckpointError(f"{path / damaged[0]} is damaged: its checksum does not match")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Context in which a verified checkpoint is used; what does not fit is an error of the configuration.

    Raises:
        CheckpointError: instead of errors of keys, shapes and types. The checksums matched, so the checkpoint
            is what was written, for another configuration.
    """
    try:
        yield
    except (KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} does not fit the run's config.json, which has been changed since: {reason[:200]}"
        ) from error


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
