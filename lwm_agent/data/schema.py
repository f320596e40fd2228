"""What a file of trajectories looks like: the HDF5 layout of the released LeWorldModel data.

One row a frame, episodes one after the other::

    pixels       (N, h, h, 3)  uint8
    action       (N, A)        float32   action[t] leaves frame[t]; NaN in the last row of an episode
    state        (N, k)        float64   privileged simulator state, optional
    episode_idx  (N,)          int64     step_idx   (N,)  int64
    ep_len       (E,)          int64     ep_offset  (E,)  int64

Files written here also carry attributes: ``env_id``, ``env_kwargs`` (JSON), ``action_low``, ``action_high``,
``discrete`` where actions are one-hot, and how the data were collected. Released files have none of them, may have
other columns, and load as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin  # noqa: F401  registers the Blosc filter, which the released files need
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

VERSION = 1
REQUIRED = ("pixels", "action", "ep_len", "ep_offset")
UNFINISHED = "run the collect or convert that wrote it again"


class DatasetError(UserError):
    """A file of trajectories cannot be used or written; the message says why and what to do."""


class Episode(NamedTuple):
    """One trajectory of n frames."""

    pixels: NDArray[np.uint8]  # (n, h, h, 3)
    action: NDArray[np.float32]  # (n - 1, A)
    state: NDArray[np.float64] | None = None  # (n, k)


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is complete."""
    return path.with_name(path.name + ".partial")


def open_file(path: Path) -> h5py.File:
    """The file, open for reading, once its columns are known to be there and to fit together."""
    if not path.exists():
        partial = partial_path(path)
        hint = f"; {partial} is incomplete: {UNFINISHED}" if partial.exists() else ""
        raise DatasetError(f"{path} does not exist{hint}")
    if path.suffix == ".npz":
        raise DatasetError(
            f"{path} is an npz file: make OGBench's a data set with "
            f"`lwm-agent convert {path} --out {path.with_suffix('.h5')}`, and use that"
        )
    if not h5py.is_hdf5(path):
        raise DatasetError(f"{path} is not an HDF5 file: collect a data set with `lwm-agent collect`")
    with reading(path):
        file = h5py.File(path, "r")
        _check_columns(file, path)
    return file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an error of HDF5 inside the block into a `DatasetError` that names the file."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{path} is damaged or cut short ({error}): copy, download or collect it again") from error


def check_pixels(pixels: Any, name: str) -> None:
    """Refuses anything but square colour pictures, an array or a column called `name`."""
    if pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
        raise DatasetError(f"{name} must be uint8 (N, h, h, 3), not {pixels.dtype} {pixels.shape}")


def check_episodes(
    path: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64], action: NDArray[np.float32]
) -> None:
    """Refuses episodes that do not cover the rows one after the other, or with actions that are not numbers."""
    if len(offsets) != len(lengths) or len(lengths) == 0:
        raise DatasetError(f"{path}: ep_offset has {len(offsets)} episodes and ep_len has {len(lengths)}")
    order = np.argsort(offsets)
    ends = np.cumsum(lengths[order])
    if lengths.min() < 1 or (offsets[order] != ends - lengths[order]).any() or ends[-1] != len(action):
        raise DatasetError(
            f"{path}: ep_offset and ep_len do not cover the {len(action)} frames one episode after the other "
            f"(the lengths sum to {ends[-1]})"
        )
    finite = np.logical_and.reduce(np.isfinite(action), axis=1)
    finite[offsets + lengths - 1] = True
    if not finite.all():
        raise DatasetError(f"{path}: action has NaN or infinity in row {np.argmin(finite)}, inside an episode")


def _check_columns(file: h5py.File, path: Path) -> None:
    if not file.attrs.get("complete", True):
        raise DatasetError(f"{path} is incomplete: {UNFINISHED}")
    missing = [name for name in REQUIRED if name not in file]
    if missing:
        raise DatasetError(f"{path} has no {', '.join(missing)}; it has {', '.join(sorted(file)) or 'nothing'}")
    check_pixels(file["pixels"], f"{path}: pixels")
    if file["action"].ndim != 2:
        raise DatasetError(f"{path}: action must be (N, A), not {file['action'].shape}")
    rows = {name: len(file[name]) for name in ("pixels", "action", "state") if name in file}
    if len(set(rows.values())) > 1:
        raise DatasetError(f"{path}: the columns differ in length: {rows}")
