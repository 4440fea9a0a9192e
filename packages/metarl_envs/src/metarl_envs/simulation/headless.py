"""Selection of MuJoCo's OpenGL backend, before MuJoCo is imported."""

from __future__ import annotations

import ctypes.util
import os
import sys


def prefer_headless_rendering() -> None:
    """Lets MuJoCo render without a display if there is none and the user has not selected a backend.

    MuJoCo selects its OpenGL backend when it is imported, and the default one needs a display. Without any
    OpenGL library, rendering is disabled: dm_control, which composes the bodies of the sparse families, would
    otherwise fail when it is imported, although nothing is rendered.
    """
    if sys.platform != "linux":
        return
    # Mesa's software driver draws in the calling thread then. Its own threads would not exist in a forked
    # process, which would wait for them.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "MUJOCO_GL" in os.environ:
        return
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
    os.environ["MUJOCO_GL"] = "disable"
