"""Reader of OGBench's published `visual-cube-single` data (arXiv 2410.20092), which writes a file of trajectories.

The data are npz files, zip archives of one compressed array a name. One row a frame, at 20 Hz, episodes one after the
other::

    observations  (N, 64, 64, 3)  uint8    ogbench's own picture, which `lwm/Cube-v0` calls ``fidelity="stock"``
    actions       (N, 5)          float32  actions[t] leaves observations[t]; the last of an episode leads nowhere
    terminals     (N,)            bool     True in the last row of an episode
    qpos          (N, 21)         float32  joint positions, then
    qvel          (N, 20)         float32  joint velocities: together the state of `lwm/Cube-v0`

A million frames are 12 GB, compressed as one stream that can only be read from its beginning: nothing to train from.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..envs import ENVS
from ..errors import FileError, UserError
from ..files import advice, check_regular_file
from .schema import DatasetError
from .trajectories import Progress
from .writer import TrajectoryWriter, check_output

PICTURES = "observations"
ROWS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    PICTURES: (np.uint8, (64, 64, 3)),
    "actions": (np.float64, (5,)),
    "terminals": (np.float64, ()),
    "qpos": (np.float64, (21,)),
    "qvel": (np.float64, (20,)),
}
"""Columns, the widest type that each may have, and the shape of a row."""
RATIO = 1100
"""Largest compression of a column: a little more than zip archives can reach."""

ERRORS = (
    *(OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, SyntaxError, OverflowError, MemoryError),
    *(IndexError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""Errors of reading an archive that is damaged, or made to harm."""

CONVENTIONS: dict[str, Any] = {**ENVS["cube"].conventions, "fidelity": "stock", "image_size": 64}


def convert(source: str | Path, out: str | Path, progress: Progress | None = None) -> None:
    """Writes the episodes of the npz file `source` to the HDF5 file `out`, which appears when it is complete.

    Holds one episode's pictures in memory, and all that is not pictures: 0.4 GB for a million frames. `progress` is
    called with frames done and their number. Raises `DatasetError` if `source` cannot be used, or
    `out` exists or cannot be written.
    """
    check_output(out)
    source = Path(source)
    columns = _read_columns(source)
    actions, state = columns["actions"], np.concatenate([columns["qpos"], columns["qvel"]], axis=1)
    stops = np.flatnonzero(columns["terminals"]) + 1
    starts = np.concatenate([[0], stops[:-1]])
    with TrajectoryWriter(
        out,
        env_id=ENVS["cube"].env_id,
        env_kwargs=CONVENTIONS,
        action_low=np.full(actions.shape[1], -1.0),
        action_high=np.full(actions.shape[1], 1.0),
        attributes={"source": source.name, "lwm_agent_version": __version__},
    ) as writer:
        for start, stop, pixels in zip(starts, stops, _pictures(source, stops - starts), strict=True):
            writer.add(pixels, actions[start : stop - 1], state[start:stop])
            if progress is not None:
                progress(int(stop), len(state))


def _read_columns(source: Path) -> dict[str, NDArray[Any]]:
    """All columns but the pictures; refused where the pictures do not fit to them."""
    with _opened(source) as archive:
        names = sorted(name.removesuffix(".npy") for name in archive.namelist())
        missing = sorted(ROWS.keys() - set(names))
        if missing:
            raise DatasetError(f"{source} has no {', '.join(missing)}; it has {', '.join(names)}: {_WANTED}")
        lengths = {name: _check_column(archive, name, source) for name in ROWS}
        if len(set(lengths.values())) > 1:
            raise DatasetError(f"{source}: the columns differ in length: {lengths}: {_AGAIN}")
        columns = {}
        for name in ROWS.keys() - {PICTURES}:
            with archive.open(f"{name}.npy") as stream:
                columns[name] = np.lib.format.read_array(stream, allow_pickle=False)
    for name, column in columns.items():
        if not np.isfinite(column).all():
            row = np.argwhere(~np.isfinite(column))[0, 0]
            raise DatasetError(f"{source}: {name} has NaN or infinity in row {row}: {_AGAIN}")
    if not np.isin(columns["terminals"], (0, 1)).all():
        raise DatasetError(f"{source}: terminals must be 0 or 1: {_AGAIN}")
    if not len(columns["terminals"]) or not columns["terminals"][-1]:
        raise DatasetError(f"{source} ends within an episode: its last row is not terminal: {_AGAIN}")
    return columns


def _check_column(archive: zipfile.ZipFile, name: str, source: Path) -> int:
    """The number of rows of a column, which must be what `ROWS` says."""
    widest, row = ROWS[name]
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetError(f"{source}: {name} is compressed in another way than numpy does: {_WANTED}")
    if entry.file_size > RATIO * entry.compress_size or entry.compress_size > source.stat().st_size:
        raise DatasetError(f"{source}: {name} announces {entry.file_size} bytes, more than the file can hold: {_AGAIN}")
    with archive.open(f"{name}.npy") as stream:
        shape, by_columns, dtype = _read_header(stream)
        plain = dtype.kind in "fiub" and np.can_cast(dtype, widest)
        if by_columns or not shape or shape[1:] != row or not plain:
            wanted = "pictures" if name == PICTURES else "numbers"
            raise DatasetError(f"{source}: {name} is {dtype} {shape}, not {wanted} {_rows(row)}: {_WANTED}")
        if entry.file_size - stream.tell() != prod(shape) * dtype.itemsize:
            raise DatasetError(f"{source}: {name} does not hold the {shape[0]} rows that it announces: {_AGAIN}")
    return shape[0]


def _pictures(source: Path, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The pictures ``(n, 64, 64, 3)`` of one episode after the other."""
    _, row = ROWS[PICTURES]
    with _opened(source) as archive, archive.open(f"{PICTURES}.npy") as stream:
        _read_header(stream)
        for length in lengths.tolist():
            yield np.frombuffer(stream.read(length * prod(row)), np.uint8).reshape(length, *row)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Header of an array: its shape, whether columns come before rows, and its type."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise UserError("arrays of another format than numpy.savez writes")
    return np.lib.format.read_array_header_1_0(stream)


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; errors of reading it become a `DatasetError` that names it."""
    if not source.exists():
        raise DatasetError(f"{source} does not exist: {_AGAIN}")
    try:
        check_regular_file(source)
        with zipfile.ZipFile(source) as archive:
            yield archive
    except DatasetError:
        raise
    except ERRORS as error:
        if isinstance(error, FileError):
            raise DatasetError(str(error)) from error
        if advice(error) != str(error):
            raise DatasetError(f"{source} cannot be read: {advice(error)}") from error
        raise DatasetError(f"{source} is damaged, cut short or not an npz file ({error}): {_AGAIN}") from error


def _rows(row: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, row))})" if row else "(N,)"


_WANTED = "only OGBench's visual-cube-single-play-v0 and -noisy-v0 can be converted"
_AGAIN = "download it (again), for example with `ogbench.download_datasets(['visual-cube-single-play-v0'])`"
