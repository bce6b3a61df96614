"""Pictures of articulated bodies by MuJoCo's own renderer, without a window, through EGL or OSMesa."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import finalize

import mujoco
import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError

__all__ = ["MujocoRenderer"]

Floats = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]

BACKENDS = ("egl", "osmesa")
"""Ways to draw without a window, the faster one first; the environment's MUJOCO_GL overrides."""

PROBE = "from mujoco.{} import GLContext; GLContext(8, 8).make_current(); import os; os._exit(0)"
PROBE_SECONDS = 60.0


class MujocoRenderer:
    """Draws one environment, seen by a camera that follows.

    Args:
        path: MJCF file.
        width: Picture width [px].
        height: Picture height [px].
        extent: Radius of what should fill the picture [m].
        focus: What the camera follows: q [q_count] → point, z up [m], shape [3].

    Raises:
        UsageError: Neither EGL nor OSMesa works here.
    """

    def __init__(
        self, path: str | Path, width: int, height: int, *, extent: float, focus: Callable[[Floats], Floats]
    ) -> None:
        backend = _backend()
        self._model = _dressed(path)
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = width, height
        self._model.vis.quality.shadowsize = 2048  # most of the time, where the processor draws
        self._data = mujoco.MjData(self._model)
        # MuJoCo's own Renderer takes what MUJOCO_GL said when mujoco was imported: a window, where it said nothing.
        self._window = import_module(f"mujoco.{backend}").GLContext(width, height)
        self._window.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        release = finalize(self, _release, self._window, self._context)
        release.atexit = False
        atexit.register(release)  # which comes before the backend's own end, registered when the window was made
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=1000)
        self._option, self._pick = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.azimuth, self._camera.elevation, self._camera.distance = 120.0, -12.0, 3.0 * extent
        self._size = mujoco.MjrRect(0, 0, width, height)
        self._focus = focus
        self._level: float | None = None

    def __call__(self, q: Floats) -> Frame:
        """Draws positions q [q_count]; sRGB, shape [height, width, 3]."""
        self._window.make_current()  # another renderer may have been at work
        point = self._focus(q)
        self._level = (
            float(point[2]) if self._level is None else self._level
        )  # steady, or a gait would shake the ground
        self._camera.lookat[:] = point[0], point[1], self._level
        self._data.qpos[:] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self._model, self._data, self._option, self._pick, self._camera, everything, self._scene)
        mujoco.mjr_render(self._size, self._scene, self._context)
        pixels = np.empty((self._size.height, self._size.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._size, self._context)
        return np.ascontiguousarray(pixels[::-1])


def _release(window: Any, context: Any) -> None:
    window.make_current()
    context.free()
    window.free()


@cache
def _backend() -> str:
    """Finds a way to draw. PyOpenGL is of no more use once one has failed, so each is tried in a process of its own."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    for backend in (chosen,) if chosen in BACKENDS else BACKENDS:
        environment = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"}
        command = [sys.executable, "-c", PROBE.format(backend)]
        tried = subprocess.run(
            command, env=environment | {"MUJOCO_GL": backend}, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
        if tried.returncode == 0:
            return backend
    raise UsageError(
        "MuJoCo's renderer needs EGL or OSMesa and neither works here: install libegl1 or libosmesa6 (Debian's names) "
        "and set MUJOCO_GL=egl or MUJOCO_GL=osmesa, or leave --renderer out"
    )


def _dressed(path: str | Path) -> Any:
    """The model with a sky, a sun, and squares of one metre on its ground."""
    spec = mujoco.MjSpec.from_file(str(path))
    gradient, checker = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    sky = {"type": mujoco.mjtTexture.mjTEXTURE_SKYBOX, "builtin": gradient, "width": 64, "height": 384}
    spec.add_texture(name="sky", rgb1=[0.75, 0.84, 0.93], rgb2=[0.95, 0.96, 0.97], **sky)
    squares = {"type": mujoco.mjtTexture.mjTEXTURE_2D, "builtin": checker, "width": 256, "height": 256}
    spec.add_texture(name="squares", rgb1=[0.74, 0.76, 0.78], rgb2=[0.62, 0.65, 0.68], **squares)
    material = spec.add_material(name="squares", texrepeat=[0.5, 0.5], texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "squares"
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
            geom.material, geom.rgba = "squares", [1.0, 1.0, 1.0, 1.0]
    sun = {"pos": [0.0, 0.0, 10.0], "dir": [0.05, 0.1, -1.0], "type": mujoco.mjtLightType.mjLIGHT_DIRECTIONAL}
    # Shadows fall only near the light, so it goes along.
    spec.bodies[1].add_light(name="sun", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK, diffuse=[0.7, 0.7, 0.7], **sun)
    return spec.compile()
