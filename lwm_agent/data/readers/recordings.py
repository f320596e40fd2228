"""Recordings: the episodes of a data set of another format, read one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..schema import DatasetError

Frame = NDArray[np.uint8]


class Demonstration(NamedTuple):
    """One episode: n frames of any size ``(h, w, 3)``, and the actions that leave them, n or n - 1."""

    frames: Iterable[Frame]
    action: NDArray[Any]  # (n | n - 1, A), or (n | n - 1,) of a Discrete space
    state: NDArray[np.float64] | None = None  # (n, k)


@dataclass(frozen=True)
class Recordings:
    """A data set of another format.

    Attributes:
        num_episodes: number of its episodes.
        cameras: names of all its cameras.
        camera: the one that is read.
        fps: frames a second, None where the format does not say.
        demonstrations: reads the episodes, in their order.
        left_out: what of the data set is not read, in words.
        num_actions: number of actions of a Discrete space, None where actions are vectors.
    """

    num_episodes: int
    cameras: Sequence[str]
    camera: str
    fps: float | None
    demonstrations: Callable[[], Iterator[Demonstration]]
    left_out: Sequence[str] = ()
    num_actions: int | None = None


class Reader(Protocol):
    """A format."""

    name: str
    """Name of the format in messages."""

    def matches(self, source: Path) -> bool:
        """True if `source` looks like this format."""
        ...

    def open(self, source: Path, camera: str | None) -> Recordings:
        """The recordings in `source`; raises `DatasetError` if they cannot be read, or have no such camera."""
        ...


def choose_camera(source: Path, cameras: Sequence[str], camera: str | None) -> str:
    """The camera that is asked for, or the only one.

    Raises:
        DatasetError: there is no such camera, or there are several and none is named.
    """
    if not cameras:
        raise DatasetError(f"{source} has no pictures: a world model learns from them")
    if camera is None and len(cameras) > 1:
        raise DatasetError(f"{source} has the cameras {', '.join(cameras)}: choose one with --camera")
    if camera is not None and camera not in cameras:
        raise DatasetError(f"{source} has no camera {camera!r}: choose one of {', '.join(cameras)}")
    return cameras[0] if camera is None else camera


def is_pictures(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """True for ``(N, h, w, 3)`` of bytes or of floats."""
    return len(shape) == 4 and shape[-1] == 3 and min(shape[1:3]) > 1 and (dtype == np.uint8 or dtype.kind == "f")


def as_bytes(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    """Pictures as bytes; floats are on the scale 0 to 255, or 0 to 1 if none is beyond."""
    if pictures.dtype == np.uint8:
        return pictures
    scale = 255.0 if pictures.size and pictures.max() <= 1.0 else 1.0
    return np.clip(np.rint(pictures * scale), 0, 255).astype(np.uint8)
