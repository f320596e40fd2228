"""GIFs of one palette, without dithering: a third of the size of those with a palette for each frame."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from .scenery import Frame

SAMPLES = 6
"""Frames, evenly spaced, from which the palette is made."""

MOST = 64
"""Most often that a colour counts."""


class GifWriter:
    """Writes a GIF that loops, in imageio's manner; frames are kept compressed until it is closed.

    Args:
        path: the file.
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: int) -> None:
        self._path, self._duration_ms = path, 1000 / fps
        self._frames: list[tuple[bytes, tuple[int, ...]]] = []

    def append_data(self, frame: Frame) -> None:
        """Adds a frame ``(h, w, 3)``."""
        self._frames.append((zlib.compress(frame.tobytes(), 1), frame.shape))

    def close(self) -> None:
        """Writes the file, unless there are no frames."""
        if not self._frames:
            return
        chosen = np.unique(np.linspace(0, len(self._frames) - 1, SAMPLES).round().astype(int))
        palette = palette_of(np.concatenate([self._frame(number)[::2, ::2] for number in chosen]))
        images = [
            Image.fromarray(self._frame(number)).quantize(palette=palette, dither=Image.Dither.NONE)
            for number in range(len(self._frames))
        ]
        images[0].save(
            self._path,
            "GIF",
            save_all=True,
            append_images=images[1:],
            duration=self._duration_ms,
            loop=0,
            optimize=True,
        )

    def _frame(self, number: int) -> Frame:
        data, shape = self._frames[number]
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)


def palette_of(sample: Frame) -> Image.Image:
    """A picture whose palette fits the colours of `sample` ``(h, w, 3)``, rare ones too.

    Each colour counts by the square root of its pixels: by all of them, a cube of 100 px would take the colour of the
    gripper beside it.
    """
    cells = (sample.reshape(-1, 3) >> 3).astype(np.int64) @ (1 << 10, 1 << 5, 1)
    _, first, counts = np.unique(cells, return_index=True, return_counts=True)
    times = np.minimum(np.ceil(np.sqrt(counts) / 4), MOST).astype(np.int64)
    colours = np.repeat(sample.reshape(-1, 3)[first], times, axis=0)
    return Image.fromarray(colours[None]).quantize(256, method=Image.Quantize.MEDIANCUT)
