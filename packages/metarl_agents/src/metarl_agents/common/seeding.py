"""Independent random streams of one run, each with its own generator.

No code in this package uses a global generator: code that draws random numbers receives a generator,
and every generator is part of the checkpoint.
"""

import zlib
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, name: str) -> int:
    """Seed of the stream `name` of a run, as a non-negative 63-bit integer.

    Streams depend on their name and not on their order, so a new stream does not change the others.

    Args:
        seed: the run's seed, non-negative.
        name: purpose of the stream, e.g. "weights".

    Raises:
        ValueError: when the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"the seed must be a non-negative integer, not {seed}")
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def part_seed(seed: int, part: int) -> int:
    """Seed of one of several parts of a computation, e.g. of a task in an iteration, as a 63-bit integer."""
    sequence = np.random.SeedSequence([seed, part])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_stream(seed: int, name: str) -> np.random.Generator:
    """NumPy generator of the stream `name`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, name)))


def torch_stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """PyTorch generator of the stream `name`, on the device on which its numbers are used."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name))


def numpy_state(generator: np.random.Generator) -> dict[str, Any]:
    """State of a NumPy generator, convertible to JSON."""
    return dict(generator.bit_generator.state)


def restore_numpy_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Sets a NumPy generator to a state from `numpy_state`."""
    generator.bit_generator.state = state
