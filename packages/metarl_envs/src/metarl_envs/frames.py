"""Writing frames as a picture or a clip. Needs the extra `metarl-envs[plot]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl_envs.files import atomic_path
from metarl_envs.schema import listed

FORMATS = (".gif", ".png")


def check_format(path: Path) -> None:
    """Raises ValueError when a file's ending is not one that `write_frames` knows."""
    if path.suffix not in FORMATS:
        raise ValueError(f"a picture's file ends in one of {listed(FORMATS)}, got {path.name!r}")


def write_frames(path: Path, frames: Sequence[NDArray[np.uint8]], fps: int) -> None:
    """Writes frames: all of them as a GIF, or the last one as a PNG.

    Args:
        path: the file, whose ending says which; written whole or not at all.
        frames: `(height, width, 3)` each.
        fps: frames per second of a clip.

    Raises:
        ValueError: the file's ending is unknown.
        ImportError: Pillow is not installed.
    """
    check_format(path)
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "pictures need Pillow; install the extra with: pip install 'metarl-envs[plot]'"
        ) from error
    images = [Image.fromarray(frame) for frame in frames]
    with atomic_path(path) as temporary:
        if path.suffix == ".png":
            images[-1].save(temporary, format="PNG")
        else:
            # GIF counts in hundredths of a second.
            images[0].save(
                temporary,
                format="GIF",
                save_all=True,
                append_images=images[1:],
                duration=max(20, round(1000 / fps)),
                loop=0,
            )
