"""Independent random streams of one run, each a generator object of its own.

No global generator is read or written anywhere in this package: whoever draws random numbers is
handed a generator, and every generator is part of the checkpoint.
"""

import zlib
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, name: str) -> int:
    """Seed of the stream `name` in the run with this seed, as a non-negative 63-bit integer.

    Streams are keyed by name and not by order, so adding one leaves all the others unchanged.

    Args:
        seed: the run's seed, non-negative.
        name: what the stream is for, e.g. "weights".

    Raises:
        ValueError: when the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"the seed must be a non-negative integer, not {seed}")
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_stream(seed: int, name: str) -> np.random.Generator:
    """NumPy generator of the stream `name`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, name)))


def torch_stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """PyTorch generator of the stream `name`, on the device on which its numbers are used."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name))


def numpy_state(generator: np.random.Generator) -> dict[str, Any]:
    """State of a NumPy generator as JSON-able values."""
    return dict(generator.bit_generator.state)


def restore_numpy_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Puts a NumPy generator into a state that `numpy_state` returned."""
    generator.bit_generator.state = state
