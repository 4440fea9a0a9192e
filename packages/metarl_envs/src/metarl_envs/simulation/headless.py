"""Choosing how MuJoCo draws, before it is imported."""

from __future__ import annotations

import ctypes.util
import os
import sys


def prefer_headless_rendering() -> None:
    """Lets MuJoCo render without a display, where one is absent and the user has not chosen.

    MuJoCo chooses its OpenGL backend when it is imported, and its default needs a display.
    """
    if sys.platform != "linux" or "MUJOCO_GL" in os.environ:
        return
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
