"""Shifts of pictures, for any environment: light, blur, noise, dirt, passers-by and the camera.

A shift is made of a random generator and a strength at the start of an episode. It draws what holds for the episode,
such as the direction in which the camera moved, and changes one picture ``(h, w, 3)`` after the other. Shifts are
classes, not functions within functions, so that an environment can be copied and pickled in the middle of an episode.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.uint8]
Change = Callable[[Picture], Picture]

REFERENCE_PX = 64
"""Width of the pictures for which lengths in pixels hold; they grow with the picture."""
DISC = 0.05  # radius of a distractor, of the picture's width
DISC_SPEED = 0.02  # of a distractor a step, of the picture's width


class Light:
    """Brighter or darker by a share."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self._factor = 1 + strength * rng.choice((-1.0, 1.0))

    def __call__(self, picture: Picture) -> Picture:
        return _rounded(self._factor * picture)


class Blur:
    """A Gaussian blur, of so many pixels of 64."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self._radius = strength / REFERENCE_PX

    def __call__(self, picture: Picture) -> Picture:
        return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(self._radius * picture.shape[1])))


class PixelNoise:
    """Gaussian noise on each pixel and colour, as a share of white, anew in each picture."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self._rng, self._std = rng, 255 * strength

    def __call__(self, picture: Picture) -> Picture:
        return _rounded(picture + self._rng.normal(0.0, self._std, picture.shape))


class Occlusion:
    """A grey square somewhere, whose side is a share of the width."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self._side, (self._left, self._top) = strength, rng.uniform(0, 1 - strength, 2)

    def __call__(self, picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        hidden = picture.copy()
        row, column = round(self._top * height), round(self._left * width)
        hidden[row : row + round(self._side * height), column : column + round(self._side * width)] = 128
        return hidden


class Distractors:
    """So many coloured discs, which drift over the picture and turn back at its edges."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        number = round(strength)
        self._places, ways = rng.uniform(0, 1, (number, 2)), rng.uniform(0, 2 * np.pi, number)
        self._steps = DISC_SPEED * np.stack([np.cos(ways), np.sin(ways)], axis=1)
        self._colors = [tuple(color) for color in rng.integers(0, 256, (number, 3)).tolist()]

    def __call__(self, picture: Picture) -> Picture:
        drawn = Image.fromarray(picture)
        pencil, size = ImageDraw.Draw(drawn), np.array(drawn.size)
        for place, color in zip(self._places, self._colors, strict=True):
            pencil.circle(tuple((_mirrored(place) * size).tolist()), DISC * drawn.width, fill=color)
        self._places = self._places + self._steps
        return np.array(drawn)


class _Camera:
    """View of a moved camera; beyond the edge of a picture, its edge goes on.

    Args:
        zoom: size of things, relative to the usual.
        turn: angle about the camera's axis, radians.
        shift: way of the camera, of the picture's width, (2,).
    """

    def __init__(self, zoom: float, turn: float, shift: tuple[float, float]) -> None:
        self._back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / zoom
        self._shift, self._margin = np.array(shift), 0.5 + max(map(abs, shift))

    def __call__(self, picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        margin = round(self._margin * max(height, width))
        padded = Image.fromarray(np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
        middle = np.array([width, height]) / 2
        # The map from a place in the result to its source.
        start = middle + margin - self._back @ (middle + self._shift * width)
        numbers = (*self._back[0], start[0], *self._back[1], start[1])
        return np.array(padded.transform((width, height), Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR))


class CameraShift(_Camera):
    """A camera that moved sideways by a share of the picture's width, in any direction."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        way = rng.uniform(0, 2 * np.pi)
        super().__init__(1.0, 0.0, (strength * np.cos(way), strength * np.sin(way)))


class CameraZoom(_Camera):
    """A camera that moved nearer or farther: things grow or shrink by a share."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        super().__init__(1 + strength * rng.choice((-1.0, 1.0)), 0.0, (0.0, 0.0))


class CameraTurn(_Camera):
    """A camera that turned about its axis by so many degrees, either way."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        super().__init__(1.0, np.radians(strength) * rng.choice((-1.0, 1.0)), (0.0, 0.0))


def _mirrored(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """A place that turns back at the edges 0 and 1."""
    return 1 - np.abs(1 - place % 2)


def _rounded(picture: NDArray[np.float64]) -> Picture:
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
