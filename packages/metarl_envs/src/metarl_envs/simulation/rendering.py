"""Headless frames of MuJoCo bodies, with the goal drawn."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import sys
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

_MARKER_COLOUR = np.array([0.15, 0.75, 0.3, 0.6], dtype=np.float32)

#: Models that look the same share a context, which takes about 100 MB. A thread keeps this many.
MOST_CONTEXTS = 4
#: Fields of a model that decide what it looks like, and others that tasks may change.
_LOOKS = ("cam_", "geom_", "hfield_", "light_", "mat_", "mesh_", "site_", "skin_", "tendon_", "tex_")
_NOT_LOOKS = ("friction", "invweight0", "poscom0", "solref", "solimp", "solmix")


@dataclass(frozen=True)
class View:
    """Camera position and size of the goal marker.

    Attributes:
        distance: distance from the camera to the point that it looks at, m.
        elevation: angle of the viewing direction above the horizon, degrees; negative: downwards.
        marker: radius of the sphere that marks the goal, m.
        marker_height: height of the sphere's centre above the floor, m.
        centre: the point that the camera looks at, m; None follows the robot.
    """

    distance: float = 6.0
    elevation: float = -25.0
    marker: float = 0.25
    marker_height: float = 0.0
    centre: tuple[float, float, float] | None = None


class Renderer:
    """Draws simulations of one model into arrays, in an OpenGL context of the calling thread.

    The context is opened at the first frame.
    """

    def __init__(self, model: mujoco.MjModel, view: View) -> None:
        """Prepares the camera.

        Args:
            model: the model to draw.
            view: the camera view.
        """
        self._model, self._view = model, view
        self._looks = _looks(model)
        self._camera = mujoco.MjvCamera()
        if view.centre is None:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            self._camera.trackbodyid = 1
        else:
            self._camera.lookat[:] = view.centre
        self._camera.distance = view.distance
        self._camera.azimuth, self._camera.elevation = 90.0, view.elevation

    def draw(
        self, data: mujoco.MjData, goal: NDArray[np.float64] | None, height: int, width: int
    ) -> NDArray[np.uint8]:
        """Draws a simulation and marks a point.

        Args:
            data: the simulation after a forward pass.
            goal: the point to mark, on the floor `(2,)` or in space `(3,)`, or None.
            height: height of the frame in pixels.
            width: width of the frame in pixels.

        Returns:
            The frame, `(height, width, 3)`.

        Raises:
            RuntimeError: no OpenGL is available, or not in this process; the message says what to do.
        """
        renderer = _mine().renderer(self._model, self._looks, height, width)
        renderer.update_scene(data, self._camera)
        if goal is not None:
            scene = renderer.scene
            if scene.ngeom < scene.maxgeom:
                mujoco.mjv_initGeom(
                    scene.geoms[scene.ngeom],
                    mujoco.mjtGeom.mjGEOM_SPHERE,
                    np.full(3, self._view.marker),
                    goal if len(goal) == 3 else np.array([goal[0], goal[1], self._view.marker_height]),
                    np.eye(3).ravel(),
                    _MARKER_COLOUR,
                )
                scene.ngeom += 1
        frame: NDArray[np.uint8] = renderer.render().copy()
        return frame


def _looks(model: mujoco.MjModel) -> bytes:
    """Digest of what a model looks like: models with the same one can be drawn for each other."""
    digest = hashlib.sha256(str([model.nq, model.nv, model.nbody, model.stat.extent]).encode())
    for name in sorted(dir(model)):
        if name.startswith(_LOOKS) and not name.endswith(_NOT_LOOKS):
            values = getattr(model, name)
            if isinstance(values, np.ndarray):
                digest.update(f"{name}{values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


class _Contexts:
    """The contexts of one thread of one process; nobody else may use or free them."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.renderers: OrderedDict[tuple[bytes, int, int], mujoco.Renderer] = OrderedDict()

    def renderer(self, model: mujoco.MjModel, looks: bytes, height: int, width: int) -> mujoco.Renderer:
        """MuJoCo's renderer for models that look like this one."""
        key = (looks, height, width)
        if key not in self.renderers:
            while len(self.renderers) >= MOST_CONTEXTS:
                _free(self.renderers.popitem(last=False)[1])
            self.renderers[key] = _opened(model, height, width)
        self.renderers.move_to_end(key)
        return self.renderers[key]

    def free(self) -> None:
        """Frees the contexts, unless they are of the process that this one was forked from."""
        renderers = list(self.renderers.values())
        self.renderers.clear()
        for renderer in renderers:
            if os.getpid() == self.process:
                _free(renderer)
            else:
                # One reference too many, so that nothing is freed, not even at the interpreter's exit.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(renderer))

    __del__ = free


def _free(renderer: mujoco.Renderer) -> None:
    # MuJoCo frees a renderer's objects, by number, in the current OpenGL context.
    renderer.render()  # makes its own context the current one
    renderer.close()


_threads = threading.local()
_all: weakref.WeakSet[_Contexts] = weakref.WeakSet()
_driver = ""
"""The OpenGL driver; empty before the first frame."""
_inherited_driver = ""
"""The driver that had drawn in the process that this one was forked from."""


def _mine() -> _Contexts:
    if not hasattr(_threads, "contexts"):
        _threads.contexts = _Contexts()
        _all.add(_threads.contexts)
    contexts: _Contexts = _threads.contexts
    return contexts


def _opened(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """A new renderer of MuJoCo.

    Raises:
        RuntimeError: no OpenGL is available, or not in a forked process.
    """
    global _driver  # known after the first context only
    # Threads of a driver do not survive a fork; with this variable, Mesa's software driver has none.
    in_software = "llvmpipe" in _inherited_driver and os.environ.get("LP_NUM_THREADS") == "0"
    if _inherited_driver and not in_software:
        raise RuntimeError(
            f"the OpenGL driver {_inherited_driver!r} cannot draw in a process that was forked after it has"
            " drawn: fork before the first frame, or start processes with the method 'spawn'"
        )
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:
        raise RuntimeError(
            "rendering needs OpenGL: install EGL or OSMesa (libegl1 or libosmesa6) and set the"
            " environment variable MUJOCO_GL to egl or osmesa before mujoco is imported"
        ) from error
    if not _driver:
        from OpenGL import GL

        _driver = (GL.glGetString(GL.GL_RENDERER) or b"unknown").decode(errors="replace")
    # MuJoCo shuts OpenGL down at exit, by a function that it registers with its first context. Contexts must
    # be freed before that. Functions registered later run earlier, so this one is registered again.
    atexit.unregister(free_contexts)
    atexit.register(free_contexts)
    return renderer


def free_contexts() -> None:
    """Frees the contexts of the calling thread; the next frame opens one again."""
    _mine().free()


def _forget_parent() -> None:
    """In a forked process: what the parent has opened is neither used nor freed."""
    global _threads, _driver, _inherited_driver
    if not _driver:
        return
    for contexts in list(_all):
        contexts.free()
    _threads, _driver, _inherited_driver = threading.local(), "", _driver
    atexit.unregister(free_contexts)
    egl = sys.modules.get("mujoco.egl.egl_ext")
    if egl is not None:
        # MuJoCo's function at exit would wait for threads of the driver that only the parent has.
        atexit.unregister(egl.eglTerminate)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
