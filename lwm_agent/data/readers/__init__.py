"""Readers of data sets of other formats. A new one is a file and a line of `READERS`."""

from __future__ import annotations

from pathlib import Path

from ..schema import DatasetError
from .demos_hdf5 import DemosHdf5
from .folder import Folder
from .lerobot import LeRobot
from .recordings import Demonstration, Reader, Recordings
from .replay_zarr import ReplayZarr

__all__ = ["READERS", "Demonstration", "Reader", "Recordings", "open_recordings"]

READERS: tuple[Reader, ...] = (LeRobot(), ReplayZarr(), DemosHdf5(), Folder())
"""Formats, those with the surest signs first."""


def open_recordings(source: Path, camera: str | None = None) -> Recordings:
    """The recordings in a file or folder, by the first reader that it looks like.

    Raises:
        DatasetError: it is of no format that is known, cannot be read, or has no such camera.
    """
    if not source.exists():
        raise DatasetError(f"{source} does not exist")
    for reader in READERS:
        if reader.matches(source):
            return reader.open(source, camera)
    formats = "; ".join(reader.name for reader in READERS)
    raise DatasetError(
        f"{source} is of no format that is known: {formats}; OGBench's visual-cube-single (npz). Write your own with "
        "lwm_agent.TrajectoryWriter, from a script of a few lines"
    )
