"""Off-screen pictures of MuJoCo models."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from importlib import import_module

import mujoco
import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError
from .opengl import choose_backend, unusable

_BALL = '<mujoco><worldbody><light pos="0 0 2"/><geom size="1"/><camera name="eye" pos="0 0 4"/></worldbody></mujoco>'


class Renderer:
    """Draws one model in one size.

    Unlike mujoco's own renderer, it does not depend on the value of MUJOCO_GL at the first import of mujoco. Like every
    OpenGL context, it works in the process and the thread that made it only.

    Args:
        model: the model to draw; its ``vis`` sets shadows and samples.
        size: side of the pictures, px; at most the model's offscreen buffer.

    Raises `MachineError` if this machine cannot draw.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        self._model = model
        self._size = size
        self._owner = os.getpid(), threading.get_ident()
        self._open = False
        backend = choose_backend()
        try:
            self._context = import_module(f"mujoco.{backend}").GLContext(size, size)
            self._context.make_current()
        except Exception as error:  # each backend raises errors of its own
            raise unusable(backend, error) from error
        self._scene = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 100)
        self._options = mujoco.MjvOption()
        self._buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        self._open = True
        # Registered after mujoco's own handler, which ends the display, and therefore called before it.
        atexit.register(_close, weakref.ref(self))

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Frees the OpenGL objects, if the process is the one that made them; no picture can be drawn afterwards."""
        if not self._open or self._owner[0] != os.getpid():
            return
        self._open = False
        try:
            self._context.make_current()
        except Exception:  # used by a thread that still runs, or gone with a display that another exit handler closed
            return
        self._buffers.free()
        self._context.free()

    def picture(self, data: mujoco.MjData, camera: str) -> NDArray[np.uint8]:
        """The view of a camera, ``(size, size, 3)``; the places of bodies and lights in `data` must be up to date."""
        if self._owner != (os.getpid(), threading.get_ident()):
            raise RuntimeError("a Renderer draws in the process and the thread that made it only: make one there")
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, view, everything, self._scene)
        self._context.make_current()
        area = mujoco.MjrRect(0, 0, self._size, self._size)
        mujoco.mjr_render(area, self._scene, self._buffers)
        pixels = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, area, self._buffers)
        return pixels[::-1].copy()  # OpenGL's rows begin at the bottom


def _close(reference: weakref.ref[Renderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()


def draw_ball() -> None:
    """Draws a frame with a ball on it; raises `MachineError` if the frame is empty."""
    model = mujoco.MjModel.from_xml_string(_BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    if np.ptp(Renderer(model, 16).picture(data, "eye")) == 0:
        raise MachineError("the frame is empty")
