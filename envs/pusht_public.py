"""Push-T as the public gym-pusht draws it, with its palette, outlines and fixed green T, so that its data fit here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pygame
from numpy.typing import NDArray

from .base import State
from .pusht_drawing import GOAL_COLOR, WALL_COLOR, Table
from .pusht_geometry import WALLS, WORLD, Polygon, Pose
from .variation import Color

GOAL: Pose = (256.0, 256.0, math.pi / 4)
"""Pose of the green T, the goal of every episode of the public environment."""

SIDE = round(WORLD)  # px of the canvas: one for each px of the table
HALF_LINE = 2  # px, half the width of outlines and walls
BRIGHTENING = 1.2  # of a colour, inside its outline


class PublicPainter:
    """Draws observations ``(size, size, 3)`` of one canvas of 512 px, by linear interpolation without smoothing.

    The public environment also marks contacts with short red lines. They do not follow from the state, and are left
    out: at 96 px they are fainter than a pixel.

    Args:
        size: side of the pictures, px; 96 in the published data.
        table: look of the table.
    """

    def __init__(self, size: int, table: Table) -> None:
        self._look = table
        self._table = pygame.Surface((SIDE, SIDE), depth=32)
        self._table.fill(table.background)
        for polygon in table.block.polygons(*GOAL):
            pygame.draw.polygon(self._table, GOAL_COLOR, _corners(polygon))
        self._canvas = self._table.copy()
        # Each pixel mixes the two by two canvas pixels around its centre.
        places = np.clip((np.arange(size) + 0.5) * SIDE / size - 0.5, 0, SIDE - 1)
        first = np.minimum(places.astype(np.intp), SIDE - 2)
        second_share = (places - first).astype(np.float32)
        self._lines = (first, 1 - second_share), (first + 1, second_share)

    def picture(self, state: State) -> NDArray[np.uint8]:
        """Agent and block over the green T, whatever the goal is."""
        self._canvas.blit(self._table, (0, 0))
        look = self._look
        for polygon in look.block.polygons(*state[2:5].tolist()):
            corners = _corners(polygon)
            pygame.draw.polygon(self._canvas, _brighter(look.block_color), corners)
            _draw_outline(self._canvas, look.block_color, (*corners, corners[0]))
        center = round(state[0]), round(state[1])
        pygame.draw.circle(self._canvas, look.agent_color, center, look.agent_radius)
        pygame.draw.circle(self._canvas, _brighter(look.agent_color), center, look.agent_radius - 2 * HALF_LINE)
        _draw_outline(self._canvas, WALL_COLOR, WALLS)
        return self._shrunk()

    def _shrunk(self) -> NDArray[np.uint8]:
        pixels, size = pygame.surfarray.pixels2d(self._canvas), len(self._lines[0][0])  # (x, y), four bytes each
        mixed = np.zeros((size, size, 4), np.float32)
        for (x, across), (y, down) in itertools.product(self._lines, repeat=2):
            mixed += pixels[np.ix_(x, y)].view(np.uint8).reshape(size, size, 4) * np.outer(across, down)[..., None]
        return np.rint(mixed[..., 2::-1]).astype(np.uint8).swapaxes(0, 1).copy()  # blue is first


def _draw_outline(canvas: pygame.Surface, color: str | Color, corners: Sequence[tuple[int, int]]) -> None:
    """Lines with round ends, one pixel wider where they do not fall to the right: a quirk of the public drawing."""
    for (x, y), (to_x, to_y) in itertools.pairwise(corners):
        pygame.draw.line(canvas, color, (x, y), (to_x, to_y), 2 * HALF_LINE)
        scale = HALF_LINE / math.hypot(to_x - x, to_y - y)
        u, v = round(scale * abs(to_y - y)), round(scale * abs(to_x - x))
        band = (x - u, y - v), (x + u, y + v), (to_x + u, to_y + v), (to_x - u, to_y - v)
        pygame.draw.polygon(canvas, color, band)
        for end in ((x, y), (to_x, to_y)):
            pygame.draw.circle(canvas, color, end, HALF_LINE)


def _corners(polygon: Polygon) -> tuple[tuple[int, int], ...]:
    """Whole corners, in the order of pymunk's polygons."""
    return tuple((round(x), round(y)) for x, y in reversed(polygon))


def _brighter(color: Color) -> tuple[int, ...]:
    return tuple(min(255, round(BRIGHTENING * part)) for part in color)
