"""Shifts of pictures, for any environment: light, blur, noise, dirt, passers-by and the camera.

A shift is a function of a random generator and a strength. It draws what holds for an episode, such as the direction in
which the camera moved, and returns the change of one picture ``(h, w, 3)``.
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


def light(rng: np.random.Generator, strength: float) -> Change:
    """Brighter or darker by a share."""
    factor = 1 + strength * rng.choice((-1.0, 1.0))
    return lambda picture: _rounded(factor * picture)


def blur(rng: np.random.Generator, strength: float) -> Change:
    """A Gaussian blur, of so many pixels of 64."""

    def change(picture: Picture) -> Picture:
        radius = strength * picture.shape[1] / REFERENCE_PX
        return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))

    return change


def pixel_noise(rng: np.random.Generator, strength: float) -> Change:
    """Gaussian noise on each pixel and colour, as a share of white, anew in each picture."""
    return lambda picture: _rounded(picture + rng.normal(0.0, 255 * strength, picture.shape))


def occlusion(rng: np.random.Generator, strength: float) -> Change:
    """A grey square somewhere, whose side is a share of the width."""
    left, top = rng.uniform(0, 1 - strength, 2)

    def change(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        hidden = picture.copy()
        rows, columns = round(top * height), round(left * width)
        hidden[rows : rows + round(strength * height), columns : columns + round(strength * width)] = 128
        return hidden

    return change


def distractors(rng: np.random.Generator, strength: float) -> Change:
    """So many coloured discs, which drift over the picture and turn back at its edges."""
    number = round(strength)
    places, ways = rng.uniform(0, 1, (number, 2)), rng.uniform(0, 2 * np.pi, number)
    steps = DISC_SPEED * np.stack([np.cos(ways), np.sin(ways)], axis=1)
    colors = [tuple(color) for color in rng.integers(0, 256, (number, 3)).tolist()]

    def change(picture: Picture) -> Picture:
        nonlocal places
        drawn = Image.fromarray(picture)
        pencil, size = ImageDraw.Draw(drawn), np.array(drawn.size)
        for place, color in zip(places, colors, strict=True):
            pencil.circle(tuple((_mirrored(place) * size).tolist()), DISC * drawn.width, fill=color)
        places = places + steps
        return np.asarray(drawn)

    return change


def camera_shift(rng: np.random.Generator, strength: float) -> Change:
    """A camera that moved sideways by a share of the picture's width, in any direction."""
    way = rng.uniform(0, 2 * np.pi)
    return _seen(1.0, 0.0, (strength * np.cos(way), strength * np.sin(way)))


def camera_zoom(rng: np.random.Generator, strength: float) -> Change:
    """A camera that moved nearer or farther: things grow or shrink by a share."""
    return _seen(1 + strength * rng.choice((-1.0, 1.0)), 0.0, (0.0, 0.0))


def camera_turn(rng: np.random.Generator, strength: float) -> Change:
    """A camera that turned about its axis by so many degrees, either way."""
    return _seen(1.0, np.radians(strength) * rng.choice((-1.0, 1.0)), (0.0, 0.0))


def _seen(zoom: float, turn: float, shift: tuple[float, float]) -> Change:
    """View of a moved camera; beyond the edge of a picture, its edge goes on."""

    def change(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        margin = max(height, width) // 2
        padded = Image.fromarray(np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
        middle = np.array([width, height]) / 2
        back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / zoom
        start = middle + margin - back @ (middle + np.array(shift) * width)  # from a place in the result to its source
        numbers = (*back[0], start[0], *back[1], start[1])
        return np.asarray(padded.transform((width, height), Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR))

    return change


def _mirrored(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """A place that turns back at the edges 0 and 1."""
    return 1 - np.abs(1 - place % 2)


def _rounded(picture: NDArray[np.float64]) -> Picture:
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
