"""Pictures of Push-T: the table as the agent observes it, and as people look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import numpy as np
import pygame
from numpy.typing import NDArray

from .base import State
from .opengl import prepare_window
from .pusht_geometry import AGENT_RADIUS, TEE, WORLD, Block
from .variation import Color

GOAL_COLOR, WALL_COLOR = "lightgreen", "lightgray"


@dataclass(frozen=True)
class Table:
    """Look of the table and of what is on it.

    Attributes:
        background: colour of the table.
        agent_color: that of the agent.
        block_color: that of the block.
        agent_radius: radius of the agent, px of the table.
        block: the block.
    """

    background: Color = (255, 255, 255)
    agent_color: Color = (65, 105, 225)
    block_color: Color = (119, 136, 153)
    agent_radius: float = AGENT_RADIUS
    block: Block = TEE


class Painter:
    """Draws observations ``(size, size, 3)``: larger first, then smoothed down.

    An agent of 4 px thereby still moves by fractions of a pixel.

    Args:
        size: side of the pictures, px.
        table: look of the table.
    """

    def __init__(self, size: int, table: Table) -> None:
        self._oversampling = min(3, 1024 // size)
        self._look = table
        self._table = empty_table(size * self._oversampling, table)
        self._small_table = pygame.transform.smoothscale(self._table, (size, size))
        self._canvas = self._table.copy()

    def picture(self, state: State) -> NDArray[np.uint8]:
        """Agent and block on the table, without the goal."""
        self._canvas.blit(self._table, (0, 0))
        picture, factor = self._small_table.copy(), self._oversampling
        # Smoothing costs most: only whole pixels of the picture around agent and block are smoothed.
        for drawn in draw_scene(self._canvas, state, self._look):
            box = pygame.Rect(drawn.x // factor, drawn.y // factor, drawn.w // factor + 2, drawn.h // factor + 2)
            box = box.clip(picture.get_rect())
            if box:  # empty where agent or block are beyond the edge
                part = self._canvas.subsurface([factor * value for value in box])
                picture.blit(pygame.transform.smoothscale(part, box.size), box)
        return to_array(picture)


class Window:
    """A window on the screen, opened when something is shown first.

    pygame has one window a process: the environment that shows last takes it.

    Args:
        fps: most pictures shown a second; `show` waits for that.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._clock = pygame.time.Clock()
        self._surface: pygame.Surface | None = None

    def show(self, canvas: pygame.Surface) -> None:
        """Draws a surface on the window."""
        if self._surface is None or pygame.display.get_surface() is not self._surface:
            prepare_window()
            pygame.display.init()
            self._surface = pygame.display.set_mode(canvas.get_size())
        self._surface.blit(canvas, (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Frees the window if it is still this one's."""
        if self._surface is not None and pygame.display.get_surface() is self._surface:
            pygame.display.quit()
        self._surface = None


def draw_table(size: int, state: State, goal_state: State | None, table: Table) -> pygame.Surface:
    """The table for people, with the block of `goal_state` in green under the agent and the block."""
    canvas = empty_table(size, table)
    if goal_state is not None:
        _draw_block(canvas, GOAL_COLOR, goal_state, table.block)
    draw_scene(canvas, state, table)
    return canvas


def empty_table(size: int, table: Table) -> pygame.Surface:
    """The table and its walls, `size` px wide."""
    canvas = pygame.Surface((size, size))
    canvas.fill(table.background)
    scale = size / WORLD
    walls = pygame.Rect(5 * scale, 5 * scale, 501 * scale, 501 * scale)
    pygame.draw.rect(canvas, WALL_COLOR, walls, max(1, round(4 * scale)))
    return canvas


def draw_scene(canvas: pygame.Surface, state: State, table: Table) -> tuple[pygame.Rect, pygame.Rect]:
    """Draws agent and block; returns the two boxes drawn on."""
    scale = canvas.get_width() / WORLD
    center = state[0] * scale, state[1] * scale
    agent = pygame.draw.circle(canvas, table.agent_color, center, table.agent_radius * scale)
    return agent, _draw_block(canvas, table.block_color, state, table.block)


def _draw_block(canvas: pygame.Surface, color: str | Color, state: State, block: Block) -> pygame.Rect:
    scale = canvas.get_width() / WORLD
    first, *others = [
        pygame.draw.polygon(canvas, color, [(x * scale, y * scale) for x, y in polygon])
        for polygon in block.polygons(*state[2:5].tolist())
    ]
    return first.unionall(others)


def to_array(canvas: pygame.Surface) -> NDArray[np.uint8]:
    """The pixels ``(h, w, 3)`` of a surface."""
    width, height = canvas.get_size()
    return np.frombuffer(pygame.image.tobytes(canvas, "RGB"), np.uint8).reshape(height, width, 3).copy()
