"""Demonstrations in HDF5, a group an episode: robomimic's and Minari's.

robomimic, ``data/demo_0``: ``actions (n, A)``, ``obs/agentview_image (n, h, w, 3)``, ``states (n, k)``.

Minari, ``episode_0``: ``actions (n, A)`` or ``(n,)`` of a Discrete space, ``observations (n + 1, h, w, 3)`` or a group
of arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers filters
import numpy as np

from ..hdf5 import hdf5_errors
from ..schema import DatasetError
from .recordings import Demonstration, Recordings, as_bytes, choose_camera, is_pictures

STATE = "states"


class DemosHdf5:
    """Implements `Reader`."""

    name = "robomimic and Minari (HDF5 with a group an episode)"

    def matches(self, source: Path) -> bool:
        """Implements `Reader`."""
        return _file_of(source).is_file() and h5py.is_hdf5(_file_of(source))

    def open(self, source: Path, camera: str | None) -> Recordings:
        """Implements `Reader`."""
        path = _file_of(source)
        with hdf5_errors(path), h5py.File(path, "r") as file:
            names = _episodes(file)
            if not names:
                found = ", ".join(sorted(file)) or "nothing"
                raise DatasetError(f"{path} has no groups data/demo_0 or episode_0 with actions: it has {found}")
            first = file[names[0]]
            arrays = _arrays(first)
            cameras = [name for name, array in arrays.items() if is_pictures(array.shape, array.dtype)]
            chosen = choose_camera(path, cameras, camera)
            others = sorted(arrays.keys() - {"actions", STATE, *cameras})
            action = first["actions"]
            discrete = action.ndim == 1 and action.dtype.kind in "iu"
            num_actions = 1 + max(int(file[name]["actions"][:].max(initial=0)) for name in names) if discrete else None
        return Recordings(
            num_episodes=len(names),
            cameras=cameras,
            camera=chosen,
            fps=None,
            demonstrations=lambda: _demonstrations(path, names, chosen),
            left_out=[f"columns {', '.join(others)}"] if others else [],
            num_actions=num_actions,
        )


def _file_of(source: Path) -> Path:
    """The file; a Minari data set is a folder around it."""
    return next(
        (path for path in (source / "data/main_data.hdf5", source / "main_data.hdf5") if path.is_file()), source
    )


def _episodes(file: h5py.File) -> list[str]:
    """Names of the groups of episodes, in their order."""
    outer = file["data"] if isinstance(_own(file, "data"), h5py.Group) else file
    prefix = "data/" if outer is not file else ""
    groups = [name for name in outer if isinstance(_own(outer, name), h5py.Group) and "actions" in outer[name]]
    return [prefix + name for name in sorted(groups, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])]


def _own(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Entry of this name in the file itself; links to elsewhere are not followed."""
    return group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None


def _arrays(group: h5py.Group, prefix: str = "") -> dict[str, h5py.Dataset]:
    """Arrays of an episode by their paths, but for those of next observations."""
    arrays: dict[str, h5py.Dataset] = {}
    for name in group:
        entry = _own(group, name)
        if isinstance(entry, h5py.Group) and name != "next_obs":
            arrays |= _arrays(entry, f"{prefix}{name}/")
        elif isinstance(entry, h5py.Dataset) and not entry.is_virtual and not entry.external:
            arrays[prefix + name] = entry
    return arrays


def _demonstrations(path: Path, names: list[str], camera: str) -> Iterator[Demonstration]:
    with hdf5_errors(path), h5py.File(path, "r") as file:
        for name in names:
            arrays = _arrays(file[name])
            if camera not in arrays:
                raise DatasetError(f"{path}: {name} has no {camera}, which the first episode has")
            state = arrays[STATE][:] if STATE in arrays and arrays[STATE].ndim == 2 else None
            yield Demonstration(
                as_bytes(arrays[camera][:]),
                arrays["actions"][:],
                None if state is None else np.asarray(state, np.float64),
            )
