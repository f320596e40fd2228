"""Drawings in films: panels with captions, ways over pictures, strips of pictures and small graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .figures import FAINT, GRID, INK, PALETTE
from .scenery import Frame

PANEL, GAP, HEADER, CAPTION = 256, 16, 48, 48  # px
BELOW = 256  # px of the second row, with strips and graphs
FINE = 3  # drawn so many times larger, then smoothed down
PAPER, GREEN, RED = "#ffffff", "#1a7f37", "#cf222e"
CURVE = PALETTE[0]
WAYS = (PALETTE[0], PALETTE[1], PALETTE[3])
"""Colours of ways: the agent's, the object's, another's."""
ELITE, CANDIDATE = PALETTE[2], "#8c959f"


@dataclass(frozen=True)
class Panel:
    """A picture of a film.

    Attributes:
        picture: of any size.
        caption: what it shows.
        note: more about it, in a smaller line: words and their colours.
    """

    picture: Frame
    caption: str
    note: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Graph:
    """A small graph over environment steps.

    Attributes:
        name: what it shows, and its unit.
        points: steps and values.
    """

    name: str
    points: Sequence[tuple[int, float]]


def compose(panels: Sequence[Panel], title: str, words: str, verdict: bool | None, below: Frame | None = None) -> Frame:
    """One frame ``(352 [+ 256], 16 + 272 n, 3)`` of n panels, each made ``(256, 256, 3)``, and a row `below` them.

    `verdict` None means that the episode goes on. Both sides are multiples of 16, which ffmpeg needs.
    """
    width, height = GAP + len(panels) * (PANEL + GAP), HEADER + PANEL + CAPTION
    canvas = Image.new("RGB", (width, height + (0 if below is None else BELOW)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, panel in enumerate(panels):
        left = GAP + column * (PANEL + GAP)
        canvas.paste(scaled(panel.picture, PANEL), (left, HEADER))
        draw.rectangle((left - 1, HEADER - 1, left + PANEL, HEADER + PANEL), outline=GRID)
        draw.text((left + PANEL / 2, HEADER + PANEL + 15), panel.caption, INK, font(15), anchor="mm")
        _draw_note(draw, left + PANEL / 2, HEADER + PANEL + 33, panel.note)
    draw.text((GAP, 15), title, INK, font(17), anchor="lm")
    draw.text((GAP, 34), words, FAINT, font(13), anchor="lm")
    if below is not None:
        canvas.paste(Image.fromarray(below), (0, height))
    if verdict is not None:
        right, middle = width - GAP, HEADER / 2
        draw.rounded_rectangle((right - 112, middle - 14, right, middle + 14), 6, GREEN if verdict else RED)
        draw.text((right - 56, middle), "SUCCESS" if verdict else "FAILED", PAPER, font(17), anchor="mm")
    return np.asarray(canvas)


def scaled(picture: Frame, size: int) -> Image.Image:
    """A picture ``(h, w, 3)`` as a square of `size` px, smooth."""
    image = Image.fromarray(picture)
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)


def _enlarged(picture: Frame, size: int) -> Image.Image:
    """A picture of `size` px whose pixels are larger, to draw fine lines on."""
    return scaled(picture, size).resize((FINE * size, FINE * size), Image.Resampling.NEAREST)


def draw_ways(picture: Frame, ways: Mapping[str, NDArray[np.float64]], frameskip: int, size: int = PANEL) -> Frame:
    """`picture` as ``(size, size, 3)`` with ways ``(N + 1, 2)``, a dot after each block of `frameskip` steps."""
    image = _enlarged(picture, size)
    draw = ImageDraw.Draw(image)
    for color, way in zip(WAYS, ways.values(), strict=False):
        _line(draw, way, color, size, 2.0)
        for x, y in way[frameskip::frameskip]:
            _dot(draw, FINE * size * x, FINE * size * y, 3.0 * FINE, color)
    return np.asarray(image.reduce(FINE))


def draw_search(
    picture: Frame, candidates: NDArray[np.float64], chosen: NDArray[np.float64], elites: int, size: int = PANEL
) -> Frame:
    """A pale `picture` with the ways of candidates ``(S, N + 1, 2)``, the cheapest in green, and the plan's own."""
    pale = (0.4 * picture + 0.6 * 255).astype(np.uint8)
    image = _enlarged(pale, size)
    draw = ImageDraw.Draw(image)
    for way in candidates[elites:]:
        _line(draw, way, CANDIDATE, size, 0.7)
    for way in candidates[:elites][::-1]:
        _line(draw, way, ELITE, size, 1.2)
    _line(draw, chosen, WAYS[0], size, 2.2)
    return np.asarray(image.reduce(FINE))


def draw_strips(rows: Mapping[str, Frame], frameskip: int, width: int, row_height: int) -> Frame:
    """Rows of pictures ``(T, h, w, 3)``, one a block of `frameskip` environment steps, each row under its name."""
    image = Image.new("RGB", (width, row_height * len(rows)), PAPER)
    draw = ImageDraw.Draw(image)
    most = max(len(pictures) for pictures in rows.values())
    side = min(row_height - 26, (width - 6 * (most - 1)) // most)
    for row, (name, pictures) in enumerate(rows.items()):
        top = row * row_height
        draw.text((0, top + 8), name, FAINT, font(12), anchor="lm")
        for column, picture in enumerate(pictures):
            left = column * (side + 6)
            image.paste(scaled(picture, side), (left, top + 18))
            draw.rectangle((left, top + 18, left + side - 1, top + 17 + side), outline=GRID)
            text = f"+{(column + 1) * frameskip}"
            draw.text((left + 4, top + 27), text, INK, font(11), anchor="lm", stroke_width=2, stroke_fill=PAPER)
    return np.asarray(image)


def draw_graphs(graphs: Sequence[Graph], step: int, length: int, size: tuple[int, int]) -> Frame:
    """Graphs under each other, up to `step` of `length`, on axes that fit all of their points."""
    width, height = size
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    slot = (height - 16) // max(len(graphs), 1)
    for row, graph in enumerate(graphs):
        top, bottom = row * slot + 20, (row + 1) * slot - 6
        known = [(at, value) for at, value in graph.points if at <= step]
        draw.text((0, top - 11), graph.name, FAINT, font(12), anchor="lm")
        if known:
            draw.text((width - 2, top - 11), f"{known[-1][1]:.3g}", INK, font(13), anchor="rm")
        draw.line((0, bottom, width, bottom), GRID)
        low = min(0.0, *(value for _, value in graph.points), 0.0)
        high = max((value for _, value in graph.points), default=1.0)
        spread = (high - low) or 1.0
        points = [
            (4 + (width - 8) * at / max(length, 1), bottom - (bottom - top - 4) * (value - low) / spread)
            for at, value in known
        ]
        draw.line(points, CURVE, 2)
        for x, y in points:
            _dot(draw, x, y, 2.5, CURVE)
    for share in (0.0, 0.5, 1.0):
        text, anchor = f"{share * length:g}", {0.0: "lm", 0.5: "mm", 1.0: "rm"}[share]
        draw.text((share * (width - 2), height - 9), text + " steps" * (share == 1.0), FAINT, font(11), anchor=anchor)
    return np.asarray(image)


def _draw_note(draw: ImageDraw.ImageDraw, middle: float, y: float, note: Sequence[tuple[str, str]]) -> None:
    """Draws coloured words around a middle."""
    x = middle - sum(draw.textlength(text, font(12)) for text, _ in note) / 2
    for text, color in note:
        draw.text((x, y), text, color, font(12), anchor="lm")
        x += draw.textlength(text, font(12))


def _line(draw: ImageDraw.ImageDraw, way: NDArray[np.float64], color: str, size: int, width: float) -> None:
    draw.line([(FINE * size * x, FINE * size * y) for x, y in way], color, round(width * FINE), joint="curve")


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all captions."""
    return ImageFont.load_default(size)
