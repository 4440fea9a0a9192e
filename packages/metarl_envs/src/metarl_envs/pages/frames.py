"""Writes frames as a picture or a clip. Pictures and GIFs need `metarl-envs[plot]`, MP4 needs `[video]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl_envs.families.schema import listed
from metarl_envs.files import atomic_path

Frames = Sequence[NDArray[np.uint8]]


def _write_png(path: Path, frames: Frames, fps: int) -> None:
    from PIL import Image

    Image.fromarray(frames[-1]).save(path, format="PNG")


def _write_gif(path: Path, frames: Frames, fps: int) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(1000 / fps)),  # browsers slow down shorter durations
        loop=0,
    )


def _write_mp4(path: Path, frames: Frames, fps: int) -> None:
    import imageio_ffmpeg

    height, width = frames[0].shape[:2]
    # The temporary file has a different extension, so the format is given explicitly.
    clip = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, codec="libx264", output_params=["-f", "mp4"]
    )
    clip.send(None)
    try:
        for frame in frames:
            clip.send(np.ascontiguousarray(frame))
    finally:
        clip.close()


_WRITERS: dict[str, tuple[Callable[[Path, Frames, int], None], str, str]] = {
    ".gif": (_write_gif, "Pillow", "plot"),
    ".mp4": (_write_mp4, "imageio-ffmpeg", "video"),
    ".png": (_write_png, "Pillow", "plot"),
}
CLIPS = (".gif", ".mp4")
"""Extensions of files that contain all frames."""


def check_format(path: Path) -> None:
    """Raises ValueError if `write_frames` does not support a file's extension."""
    if path.suffix not in _WRITERS:
        raise ValueError(f"a picture's file name must end in one of {listed(_WRITERS)}, got {path.name!r}")


def write_frames(path: Path, frames: Frames, fps: int) -> None:
    """Writes frames: all of them as a clip (GIF, MP4), or the last one as a PNG.

    Args:
        path: the file; its extension selects the format; written completely or not at all.
        frames: `(height, width, 3)` each, at least one; an MP4's sides are multiples of 16.
        fps: frames per second of a clip.

    Raises:
        ValueError: the file's extension is not supported.
        ImportError: the package that writes this format is not installed.
    """
    check_format(path)
    write, package, extra = _WRITERS[path.suffix]
    try:
        with atomic_path(path) as temporary:
            write(temporary, frames, fps)
    except ImportError as error:
        raise ImportError(
            f"writing {path.name} needs {package}; install the extra with: pip install 'metarl-envs[{extra}]'"
        ) from error
