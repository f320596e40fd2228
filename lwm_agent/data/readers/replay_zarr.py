"""Replay buffers of Diffusion Policy and UMI: a Zarr store, as a folder or zipped.

``data/`` has one array a column, all of N rows, and ``meta/episode_ends`` the row after the last of each episode::

    data/img      (N, h, w, 3)  one or more arrays of pictures, bytes or floats from 0 to 255
    data/action   (N, A)
    data/state    (N, k)        where there is one
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MachineError
from ...imports import pip_install
from ..schema import DatasetError
from .recordings import Demonstration, Recordings, as_bytes, choose_camera, is_pictures

ENDS = "meta/episode_ends"


class ReplayZarr:
    """Implements `Reader`."""

    name = "Diffusion Policy (a Zarr store with data/ and meta/episode_ends)"

    def matches(self, source: Path) -> bool:
        """Implements `Reader`."""
        return source.name.endswith((".zarr", ".zarr.zip")) or (source / ENDS).is_dir()

    def open(self, source: Path, camera: str | None) -> Recordings:
        """Implements `Reader`."""
        root = _store(source)
        try:
            columns = {name: root[f"data/{name}"] for name in sorted(root["data"])}
            ends = np.asarray(root[ENDS][:], np.int64)
        except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
            raise DatasetError(
                f"{source} has no data/ and {ENDS} that can be read ({error}): download it again"
            ) from error
        cameras = [name for name, column in columns.items() if is_pictures(column.shape, column.dtype)]
        chosen = choose_camera(source, cameras, camera)
        if "action" not in columns:
            raise DatasetError(f"{source} has no data/action: it has {', '.join(columns)}")
        rows = columns["action"].shape[0]
        if not len(ends) or ends[-1] != rows or (np.diff(ends, prepend=0) < 2).any():
            raise DatasetError(f"{source}: {ENDS} are not the ends of episodes of 2 frames or more in {rows} rows")
        others = sorted(columns.keys() - {"action", "state", *cameras})
        return Recordings(
            num_episodes=len(ends),
            cameras=cameras,
            camera=chosen,
            fps=None,
            demonstrations=lambda: _demonstrations(columns, chosen, [0, *ends.tolist()]),
            left_out=[f"columns {', '.join(others)}"] if others else [],
        )


def _store(source: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise MachineError(f"{source} is a Zarr store: {pip_install('zarr')}") from error
    try:
        store: Any = zarr.storage.ZipStore(source, mode="r") if source.is_file() else str(source)
        return zarr.open_group(store, mode="r")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DatasetError(f"{source} cannot be opened as a Zarr store ({error}): download it again") from error


def _demonstrations(columns: dict[str, Any], camera: str, bounds: list[int]) -> Iterator[Demonstration]:
    for start, stop in pairwise(bounds):
        try:
            frames = as_bytes(np.asarray(columns[camera][start:stop]))
            state = np.asarray(columns["state"][start:stop], np.float64) if "state" in columns else None
            action = np.asarray(columns["action"][start:stop])
        except (OSError, ValueError, RuntimeError) as error:
            raise DatasetError(f"rows {start} to {stop} cannot be read ({error}): download the data again") from error
        yield Demonstration(frames, action, state if state is not None and state.ndim == 2 else None)
