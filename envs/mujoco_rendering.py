"""Off-screen pictures of MuJoCo models."""

from __future__ import annotations

import atexit
from importlib import import_module

import mujoco
import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError
from .opengl import REMEDY, choose_backend

_BALL = '<mujoco><worldbody><light pos="0 0 2"/><geom size="1"/><camera name="eye" pos="0 0 4"/></worldbody></mujoco>'


class Renderer:
    """Draws one model in one size.

    Unlike mujoco's own, it does not depend on what MUJOCO_GL was when somebody first imported mujoco. Like every OpenGL
    context, it is for the process and the thread that made it, and stays until the process ends.

    Args:
        model: what to draw; its ``vis`` decides on shadows and samples.
        size: side of the pictures, px; at most the model's offscreen buffer.

    Raises `RuntimeError` if this machine cannot draw.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        self._model = model
        self._size = size
        backend = choose_backend()
        try:
            self._context = import_module(f"mujoco.{backend}").GLContext(size, size)
            self._context.make_current()
        except Exception as error:  # each backend raises errors of its own
            raise MachineError(f"MUJOCO_GL={backend} cannot draw on this machine ({error}). {REMEDY}") from error
        self._scene = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 100)
        self._options = mujoco.MjvOption()
        self._buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        atexit.register(self._close)  # while OpenGL is still there to be asked

    def _close(self) -> None:
        try:
            self._context.make_current()
        except Exception:  # the exit handler of another user of OpenGL came first: with the display, all of it is gone
            return
        self._buffers.free()
        self._context.free()

    def picture(self, data: mujoco.MjData, camera: str) -> NDArray[np.uint8]:
        """What a camera of the model sees, ``(size, size, 3)``; `data` must know where bodies and lights are."""
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


def draw_ball() -> None:
    """Draws a frame with a ball on it; raises `RuntimeError` if there is nothing to be seen."""
    model = mujoco.MjModel.from_xml_string(_BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    if np.ptp(Renderer(model, 16).picture(data, "eye")) == 0:
        raise MachineError("the frame is empty")
