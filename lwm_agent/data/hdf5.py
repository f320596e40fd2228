"""Reading of HDF5 files that strangers may have made: only plain columns of plausible size are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the Blosc filter, which the released files need
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import advice, check_regular_file
from .schema import REQUIRED, UNFINISHED, DatasetError, check_pixels, partial_path

OPTIONAL = ("state", "reward")
KINDS = {"pixels": "u", "action": "fiu", "state": "fiu", "reward": "fiu", "ep_len": "iu", "ep_offset": "iu"}
"""Kinds of NumPy types that a column may have."""

COUNTERS = {"episode_idx", "step_idx"}
"""Columns that number the rows."""

WIDEST = 64
"""Numbers a row of a column that is read though it has no meaning here."""

RATIO = 2000
"""Largest compression of a column: twice what gzip can do. Constant pictures reach 240."""

SMALL = 2**26
"""Bytes that a column may announce whatever it takes in the file."""

ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, NotImplementedError)
"""Errors that h5py raises for damaged files."""


@contextmanager
def hdf5_errors(path: Path) -> Iterator[None]:
    """Turns an error of HDF5 inside the block into a `DatasetError` that names the file, the cause and the fix."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise DatasetError(f"{path} needs more memory than there is ({error}): open it with in_memory=False") from error
    except ERRORS as error:
        cause = advice(error)
        if cause != str(error):
            raise DatasetError(f"{path} cannot be read: {cause}") from error
        if "not registered" in str(error) or ("filter returned failure" in str(error) and "plugin" in str(error)):
            raise DatasetError(f"{path} is compressed by a filter that is not installed here ({error})") from error
        raise DatasetError(f"{path} is damaged or cut short ({error}): copy, download or collect it again") from error


def open_file(path: Path) -> h5py.File:
    """File that is open for reading, and whose columns exist and fit together."""
    _check_kind(path)
    with hdf5_errors(path):
        file = h5py.File(path, "r")
        try:
            _check_columns(file, path)
        except BaseException:
            file.close()
            raise
    return file


def _check_kind(path: Path) -> None:
    """Refuses what is no HDF5 file before HDF5 sees it."""
    if not path.exists():
        partial = partial_path(path)
        hint = f"; {partial} is incomplete: {UNFINISHED}" if partial.exists() else ""
        raise DatasetError(f"{path} does not exist{hint}")
    if path.is_dir():
        raise DatasetError(f"{path} is a folder: {_convert(path)} if it is a data set of another format")
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise DatasetError(
            str(error) if isinstance(error, UserError) else f"{path} cannot be read: {advice(error)}"
        ) from error
    if path.suffix == ".npz":
        raise DatasetError(f"{path} is an npz file: {_convert(path)} if it is OGBench's")
    if not h5py.is_hdf5(path):
        raise DatasetError(f"{path} is not an HDF5 file: collect a data set with `lwm-agent collect`")


def _convert(path: Path) -> str:
    out = path.with_suffix(".h5")
    out = path.with_name(f"{path.stem}-converted.h5") if out == path else out
    return f"make a file of trajectories of it with `lwm-agent convert {path} --out {out}`"


def _check_columns(file: h5py.File, path: Path) -> None:
    if not file.attrs.get("complete", True):
        raise DatasetError(f"{path} is incomplete: {UNFINISHED}")
    names = list(file.keys())
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise DatasetError(
            f"{path} has no {', '.join(missing)}; it has {', '.join(sorted(names)) or 'nothing'}: {_convert(path)} if "
            "it is a data set of another format"
        )
    columns = {name: _column(file, name, path) for name in columns_of(file)}
    check_pixels(columns["pixels"].shape, columns["pixels"].dtype, f"{path}: pixels")
    if columns["action"].ndim != 2 or columns["action"].shape[1] < 1:
        raise DatasetError(f"{path}: action must be (N, A), not {columns['action'].shape}")
    if "state" in columns and columns["state"].ndim != 2:
        raise DatasetError(f"{path}: state must be (N, k), not {columns['state'].shape}")
    for name in {"reward", "ep_len", "ep_offset"} & columns.keys():
        if columns[name].ndim != 1:
            raise DatasetError(f"{path}: {name} must be a row of numbers, not {columns[name].shape}")
    rows = {name: len(column) for name, column in columns.items() if not name.startswith("ep_")}
    if len(set(rows.values())) > 1:
        raise DatasetError(f"{path}: the columns differ in length: {rows}")
    for name, column in columns.items():
        _check_size(column, name, path)


def columns_of(file: h5py.File) -> list[str]:
    """Names of the columns that are read. The rewards of released files may belong to other actions: they are not."""
    names = list(file)  # `in` does not see links that lead nowhere
    optional = [name for name in OPTIONAL if name in names and (name != "reward" or "schema_version" in file.attrs)]
    return [*REQUIRED, *optional]


def other_columns(path: Path) -> dict[str, NDArray[np.float64]]:
    """Numbers ``(N, n)`` of the columns, a row a frame, that this package gives no meaning, by their names.

    Tables of more than `WIDEST` numbers a row, such as features of another model, are passed over.
    """
    with hdf5_errors(path), open_file(path) as file:
        rows, columns = len(file["action"]), {}
        for name in sorted(set(file) - KINDS.keys() - COUNTERS):
            link, column = file.get(name, getlink=True), file.get(name)
            if not isinstance(link, h5py.HardLink) or not isinstance(column, h5py.Dataset):
                continue
            if column.dtype.kind not in "fiu" or column.ndim not in (1, 2):
                continue
            if len(column) == rows and prod(column.shape[1:]) <= WIDEST:
                _check_size(_column(file, name, path), name, path)
                columns[name] = column[:].astype(np.float64).reshape(rows, -1)
    return columns


def _column(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Column that lies in the file itself, of a type that it may have."""
    link = file.get(name, getlink=True)
    column = file[name] if isinstance(link, h5py.HardLink) else None
    if column is None:
        target = f"{getattr(link, 'filename', '')}:{getattr(link, 'path', '')}".lstrip(":")
        raise DatasetError(f"{path}: {name} is a link to {target}, and links are not followed: {_INSIDE}")
    if not isinstance(column, h5py.Dataset):
        raise DatasetError(f"{path}: {name} is a group, not a column: {_INSIDE}")
    if column.is_virtual or column.external:
        kind = "a virtual data set" if column.is_virtual else "stored in another file"
        raise DatasetError(f"{path}: {name} is {kind}, and other files are not followed: {_INSIDE}")
    kinds = KINDS.get(name, "fiu")
    if column.dtype.kind not in kinds or column.shape is None:
        wanted = "whole numbers" if kinds == "iu" else "uint8 (N, h, h, 3)" if name == "pixels" else "numbers"
        raise DatasetError(f"{path}: {name} must be {wanted}, not {column.dtype} {column.shape}")
    return column


def _check_size(column: h5py.Dataset, name: str, path: Path) -> None:
    """Refuses a column that announces more than the file can hold, before memory is taken for it."""
    stored, announced, size = column.id.get_storage_size(), column.size * column.dtype.itemsize, path.stat().st_size
    if column.chunks is None:
        complete = stored >= announced
        end = (column.id.get_offset() or 0) + stored
    else:
        wanted = prod(-(-rows // chunk) for rows, chunk in zip(column.shape, column.chunks, strict=True))
        complete = announced <= max(SMALL, RATIO * stored) and column.id.get_num_chunks() >= wanted
        end = stored
    if not complete or end > size:
        raise DatasetError(
            f"{path}: {name} announces {announced} bytes, and the file of {size} bytes holds {stored} for it: parts of "
            "the column were never written or are lost; copy, download or collect it again"
        )


_INSIDE = "copy the data into one file, one HDF5 dataset a column"
