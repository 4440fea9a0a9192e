"""Writing a picture without an imaging library."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl_envs.files import atomic_path


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes an 8-bit RGB picture `(height, width, 3)` as PNG, atomically."""
    height, width, _ = image.shape
    # Each row starts with its filter type, 0 for none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + chunk(b"IEND", b"")
    )
    with atomic_path(path) as file:
        file.write_bytes(content)
