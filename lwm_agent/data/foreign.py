"""Data of other formats where a file of trajectories is asked for: converted once, into a file beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from .config import ConvertConfig
from .convert import Conversion, convert
from .hdf5 import hdf5_errors
from .ogbench_npz import CONVENTIONS
from .readers import READERS
from .schema import REQUIRED, DatasetError
from .trajectories import Progress


@dataclass(frozen=True)
class OwnFile:
    """A file of trajectories.

    Attributes:
        path: the file.
        conversion: what was converted; None if the file was there already.
    """

    path: Path
    conversion: Conversion | None = None


def own_file(source: Path, image_size: int, progress: Progress | None = None) -> OwnFile:
    """The file of trajectories that `source` is, or that it is converted to: ``SOURCE.64px.h5``.

    One that is there already is used as it is. Its camera, pictures and actions are what ``lwm-agent convert`` takes
    without options.

    Args:
        source: file of trajectories, or file or folder of another format.
        image_size: side of the frames of a file that is made, px.
        progress: called with episodes that are done and their number.

    Raises:
        DatasetError: the source leaves a choice, cannot be read or has changed since, or no file can be written beside
            it; the message has the command that converts it.
    """
    if not is_foreign(source):
        return OwnFile(source)
    size = CONVENTIONS["image_size"] if source.suffix == ".npz" else image_size
    target = source.with_name(f"{source.name}.{size}px.h5")
    if target.exists():
        if target.stat().st_mtime < _newest(source):
            raise DatasetError(f"{target} is older than {source}: remove it, and it is made again")
        return OwnFile(target)
    try:
        conversion = convert(ConvertConfig(source=str(source), out=target, image_size=size), progress)
    except DatasetError as error:
        raise DatasetError(
            f"{error}. Options and another place: `lwm-agent convert {source} --camera NAME --image-size {size} --out "
            f"{target}`, then pass the file that it writes as --data"
        ) from error
    return OwnFile(target, conversion)


def is_foreign(source: Path) -> bool:
    """True if `source` is there and looks like data of another format."""
    if source.is_file() and h5py.is_hdf5(source):
        with hdf5_errors(source), h5py.File(source, "r") as file:
            if {*REQUIRED} & {*file}:
                return False
    return (source.is_file() and source.suffix == ".npz") or any(reader.matches(source) for reader in READERS)


def _newest(source: Path) -> float:
    """Time of the last change of a file, or of any file in a folder."""
    files = [source, *source.rglob("*")] if source.is_dir() else [source]
    return max(file.stat().st_mtime for file in files)
