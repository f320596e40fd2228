"""Pictures of the cubes' scene: ogbench's own, the same drawn 20 times faster on a CPU, and bright ones for films."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import State
from .cube_simulator import centre, mujoco, quaternion, simulator
from .mujoco_rendering import Renderer
from .per_thread import one_per_thread
from .variation import Color

CAMERA = "front_pixels"  # as in ogbench's visual environments
LARGEST_CELL_M = 0.012
FILM_OPACITY, FILM_AMBIENT = 0.8, 0.4  # of the arm; light from everywhere
FILM_FLOOR = (1.5, 60)  # factor and sum of the floor's colours
MARKER_OPACITY = 0.4
MARKER = "target_object_{}"
CUBE, FLOOR = "object_0", "grid"
GRIPPER = "ur5e/robotiq/black", "ur5e/robotiq/pad_gray"
"""Names in ogbench's model: of a geom, and of materials."""


@dataclass(frozen=True)
class Look:
    """Colours and light of the scene.

    Attributes:
        cube_color: colour of the first cube.
        gripper_color: that of the gripper.
        floor_color: what the floor's own colours are multiplied by, as a share of white.
        light: brightness of the lamps, 1 as ogbench has it.
    """

    cube_color: Color = (245, 66, 84)
    gripper_color: Color = (156, 71, 209)
    floor_color: Color = (255, 255, 255)
    light: float = 1.0


USUAL = Look()
"""The scene as ogbench has it."""


@dataclass(frozen=True)
class Quality:
    """Fineness of a picture.

    Attributes:
        cells_per_mesh: cells along the longest side of a mesh, whose vertices are merged.
        smallest_cell_m: side below which cells are not made smaller.
        shadow_px: side of the shadow map.
        samples: samples a pixel beyond the first.
    """

    cells_per_mesh: int
    smallest_cell_m: float
    shadow_px: int
    samples: int


QUALITIES = {"lite": Quality(12, 0.004, 256, 0), "film": Quality(20, 0.002, 1024, 4)}
"""Qualities by fidelity; ogbench's own, ``stock``, has none."""


class CubeScene:
    """A copy of the simulator's model for drawing alone, so that drawing never changes the physics.

    ogbench's picture is slow because of its 185,000 mesh faces, a shadow map of 4096 x 4096 and 4 samples a pixel.
    `lite` has 8,000 faces, a map of 256 x 256 and one sample, with the same camera, lights, colours and shadow.
    `film` is for people: the arm is opaque, which ogbench draws nearly transparent, and the light is bright.

    Args:
        num_cubes: 1 or 2.
        size: side of the pictures, px.
        fidelity: ``lite``, ``stock`` or ``film``.
        shadows: whether the lamp throws shadows, which show the height of the gripper.
    """

    def __init__(self, num_cubes: int, size: int, fidelity: str, shadows: bool) -> None:
        self._num_cubes = num_cubes
        self._model = copy.copy(simulator(num_cubes).model)
        self._data = mujoco.MjData(self._model)
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = size
        quality = QUALITIES.get(fidelity)
        if quality is not None:
            self._model.vis.quality.shadowsize = quality.shadow_px
            self._model.vis.quality.offsamples = quality.samples
            for mesh in range(self._model.nmesh):
                decimate(self._model, mesh, quality)
        if fidelity == "film":
            _brighten(self._model)
        if not shadows:
            self._model.light_castshadow[:] = False
        self._renderer = Renderer(self._model, size)
        self._look = USUAL
        self._colors = {name: self._model.mat(name).rgba[:3].copy() for name in (*GRIPPER, FLOOR)}
        self._colors[CUBE] = self._model.geom(CUBE).rgba[:3].copy()
        self._lamps, self._headlight = self._model.light_diffuse.copy(), self._model.vis.headlight.diffuse.copy()

    def picture(self, state: State, goal_state: State | None = None, look: Look = USUAL) -> NDArray[np.uint8]:
        """The scene ``(size, size, 3)`` in a state, with translucent cubes at the places of `goal_state`."""
        self._take(look)
        for cube in range(self._num_cubes):
            marker = self._model.geom(MARKER.format(cube))
            marker.rgba[3] = 0.0 if goal_state is None else MARKER_OPACITY
            if goal_state is not None:
                place = self._model.body(marker.bodyid[0]).mocapid[0]
                self._data.mocap_pos[place] = goal_state[centre(cube)]
                self._data.mocap_quat[place] = goal_state[quaternion(cube)]
        self._data.qpos[:] = state[: self._model.nq]
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self._renderer.picture(self._data, CAMERA)

    def _take(self, look: Look) -> None:
        """Colours and lights the scene."""
        if look == self._look:
            return
        self._look = look
        # Whole numbers would round ogbench's own colours, which are what they are where nothing is unusual.
        model = self._model
        for names, color, before in (
            ((CUBE,), look.cube_color, USUAL.cube_color),
            (GRIPPER, look.gripper_color, USUAL.gripper_color),
            ((FLOOR,), look.floor_color, USUAL.floor_color),
        ):
            for name in names:
                colored = model.geom(name).rgba if name == CUBE else model.mat(name).rgba
                colored[:3] = self._colors[name] if color == before else np.array(color) / 255
        model.light_diffuse[:] = look.light * self._lamps
        model.vis.headlight.diffuse[:] = look.light * self._headlight

    def places(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places ``(N, 2)`` of points ``(N, 3)`` in pictures: x and y from 0 at the left and the top to 1."""
        camera = self._model.camera(CAMERA)
        axes = np.empty(9)
        mujoco.mju_quat2Mat(axes, camera.quat)
        right, up, back = ((points_m - camera.pos) @ axes.reshape(3, 3)).T
        half = np.tan(np.radians(camera.fovy[0]) / 2)
        return 0.5 + 0.5 * np.stack([right, -up], axis=1) / (-back * half)[:, None]


def scene(num_cubes: int, size: int, fidelity: str, shadows: bool) -> CubeScene:
    """The scene of the calling thread: OpenGL objects work in the thread and the process that made them only."""
    return _scene(num_cubes, size, fidelity, shadows, os.getpid())


@one_per_thread
def _scene(num_cubes: int, size: int, fidelity: str, shadows: bool, pid: int) -> CubeScene:
    return CubeScene(num_cubes, size, fidelity, shadows)


def _brighten(model: mujoco.MjModel) -> None:
    """Lights the scene, lightens the floor and makes the arm opaque."""
    model.vis.headlight.ambient[:] = FILM_AMBIENT
    model.mat_rgba[:, 3] = np.maximum(model.mat_rgba[:, 3], FILM_OPACITY)
    factor, more = FILM_FLOOR
    model.tex_data[:] = np.minimum(model.tex_data * factor + more, 255.0).astype(np.uint8)


def decimate(model: mujoco.MjModel, mesh: int, quality: Quality) -> None:
    """Merges the vertices of a mesh that lie in one cell of a grid and drops the faces that become flat.

    The vertex of a cell is the mean of its vertices. The remaining faces keep the normals of their corners, and
    therefore their shading.
    """
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    start, stop = model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh]
    longest_m = np.ptp(vertices, axis=0).max()
    cell_m = np.clip(longest_m / quality.cells_per_mesh, quality.smallest_cell_m, LARGEST_CELL_M)
    cells = np.floor(vertices / cell_m).astype(np.int64)
    _, first, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    cell = cell.reshape(-1)  # NumPy 2.0 adds an axis
    total = np.zeros((len(first), 3))
    np.add.at(total, cell, vertices)
    vertices[first] = total / np.bincount(cell)[:, None]
    corners = cell[model.mesh_face[start:stop]]
    # One face of each triangle, identified by its corners in order from the smallest: the two sides of a thin part
    # differ in that order.
    around = (corners.argmin(axis=1)[:, None] + np.arange(3)) % 3
    _, unique = np.unique(np.take_along_axis(corners, around, axis=1), axis=0, return_index=True)
    solid = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    faces_left = start + unique[solid[unique]]
    faces, normals = first[cell[model.mesh_face[faces_left]]], model.mesh_facenormal[faces_left]
    model.mesh_face[start : start + len(faces_left)] = faces
    model.mesh_facenormal[start : start + len(faces_left)] = normals
    model.mesh_facenum[mesh] = len(faces_left)
