"""Folders of recordings: ``NAME.npz`` with pictures and actions, or ``NAME.mp4`` beside ``NAME.npy``, ``NAME.csv``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from ...files import advice
from ..schema import DatasetError
from .recordings import Demonstration, Recordings, as_bytes, choose_camera, is_pictures

ACTIONS = ("action", "actions")
VIDEO = "video"
ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class Folder:
    """Implements `Reader`."""

    name = "a folder of NAME.npz, or of NAME.mp4 with NAME.npy or NAME.csv (an episode each)"

    def matches(self, source: Path) -> bool:
        """Implements `Reader`."""
        return source.is_dir() and bool(_files(source))

    def open(self, source: Path, camera: str | None) -> Recordings:
        """Implements `Reader`."""
        files = _files(source)
        kinds = {path.suffix for path in files}
        if len(kinds) > 1:
            raise DatasetError(f"{source} has episodes as {' and as '.join(sorted(kinds))}: convert one folder of each")
        cameras, others = [VIDEO], []
        if kinds == {".npz"}:
            arrays = _arrays(files[0])
            cameras = [name for name, array in arrays.items() if is_pictures(array.shape, array.dtype)]
            others = sorted(arrays.keys() - {*cameras, *ACTIONS, "state"})
        chosen = choose_camera(source, cameras, camera)
        return Recordings(
            num_episodes=len(files),
            cameras=cameras,
            camera=chosen,
            fps=_rate(files[0]) if chosen == VIDEO and kinds != {".npz"} else None,
            demonstrations=lambda: (_demonstration(path, chosen) for path in files),
            left_out=[f"arrays {', '.join(others)}"] if others else [],
        )


def _files(folder: Path) -> list[Path]:
    """The episodes: npz files, or videos."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".mp4", ".avi", ".mov"))


def _demonstration(path: Path, camera: str) -> Demonstration:
    if path.suffix == ".npz":
        arrays = _arrays(path)
        name = next((name for name in ACTIONS if name in arrays), None)
        if name is None or camera not in arrays:
            raise DatasetError(f"{path} needs arrays {camera!r} and 'action': it has {', '.join(sorted(arrays))}")
        state = arrays.get("state")
        return Demonstration(
            as_bytes(arrays[camera]), arrays[name], None if state is None else np.asarray(state, np.float64)
        )
    return Demonstration(_video(path), _actions_beside(path))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ERRORS as error:
        raise DatasetError(f"{path} cannot be read ({advice(error)}): write it again with numpy.savez") from error


def _actions_beside(video: Path) -> NDArray[Any]:
    path = next((path for end in (".npy", ".csv") if (path := video.with_suffix(end)).is_file()), None)
    if path is None:
        raise DatasetError(f"{video} has no {video.stem}.npy or {video.stem}.csv with its actions beside it")
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        return np.loadtxt(path, np.float32, delimiter=",", ndmin=2)
    except ERRORS as error:
        raise DatasetError(f"{path} cannot be read ({error}): write a row of numbers for each action") from error


def _video(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        yield from iio.imiter(path, plugin="FFMPEG")
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path} cannot be decoded ({advice(error)}): record it again") from error


def _rate(path: Path) -> float | None:
    """Frames a second of a video, None if it does not say."""
    rate = iio.immeta(path, plugin="FFMPEG").get("fps")
    return float(rate) if rate else None
