"""Headless frames of MuJoCo bodies, with the goal drawn."""

from __future__ import annotations

import atexit
import weakref
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

_MARKER_COLOUR = np.array([0.15, 0.75, 0.3, 0.6], dtype=np.float32)

# MuJoCo frees a renderer's objects, by number, in the current OpenGL context. Freeing one renderer while
# another draws would destroy objects of the other. They are therefore kept here until none is drawing.
_open: list[mujoco.Renderer] = []
_retired: list[mujoco.Renderer] = []


def _retire(renderer: mujoco.Renderer) -> None:
    """Marks a renderer as unused. It frees nothing, because the garbage collector may call it at any time."""
    _retired.append(renderer)


def _free_retired() -> None:
    while _retired:
        renderer = _retired.pop()
        _open.remove(renderer)
        renderer.render()  # makes its own context the current one
        renderer.close()


def _free_all() -> None:
    _retired[:] = _open
    _free_retired()


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
    """Draws simulations of one model into arrays. Created at the first frame, not with the environment."""

    def __init__(self, model: mujoco.MjModel, view: View, height: int, width: int) -> None:
        """Opens an off-screen OpenGL context.

        Args:
            model: the model to draw.
            view: the camera view.
            height: height of a frame in pixels.
            width: width of a frame in pixels.

        Raises:
            RuntimeError: no OpenGL is available; the message says what to install or set.
        """
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self.size = (height, width)
        _free_retired()
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:
            raise RuntimeError(
                "rendering needs OpenGL: install EGL or OSMesa (libegl1 or libosmesa6) and set the"
                " environment variable MUJOCO_GL to egl or osmesa before mujoco is imported"
            ) from error
        self._camera = mujoco.MjvCamera()
        if view.centre is None:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            self._camera.trackbodyid = 1
        else:
            self._camera.lookat[:] = view.centre
        self._camera.distance = view.distance
        self._camera.azimuth, self._camera.elevation = 90.0, view.elevation
        self._view = view
        _open.append(self._renderer)
        self._retire = weakref.finalize(self, _retire, self._renderer)
        self._retire.atexit = False
        # MuJoCo shuts OpenGL down at exit, by a function that it registers with its first context.
        # Contexts must be freed before that. Functions registered later run earlier, so this one is
        # registered again after each context.
        atexit.unregister(_free_all)
        atexit.register(_free_all)

    def draw(self, data: mujoco.MjData, goal: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        """Draws a simulation and marks a point.

        Args:
            data: the simulation after a forward pass.
            goal: the point to mark, on the floor `(2,)` or in space `(3,)`, or None.

        Returns:
            The frame, `(height, width, 3)`.
        """
        _free_retired()
        self._renderer.update_scene(data, self._camera)
        if goal is not None:
            scene = self._renderer.scene
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
        frame: NDArray[np.uint8] = self._renderer.render().copy()
        return frame

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._retire()
        _free_retired()
