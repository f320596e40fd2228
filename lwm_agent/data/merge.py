"""Merging of parts into one file of trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from .parts import Columns, PartFolder
from .raw_file import RawFile

CHUNK_FRAMES = 16  # a clip of 4 frames at frameskip 5 spans 16
# 64-px Push-T takes about 200 bytes a frame. Of the compressions that reach this, it is the fastest to read at random,
# as benchmarks/data_loading.py shows.
COMPRESSION = hdf5plugin.Blosc(cname="lz4hc", clevel=5, shuffle=hdf5plugin.Blosc.NOSHUFFLE)
FORMAT = ("v110", "v110")  # of HDF5 1.10 and later: the first one whose own structures carry checksums


def merge(parts: PartFolder, attributes: Mapping[str, Any], path: Path) -> None:
    """Writes the episodes of all parts to the HDF5 file `path`, part by part.

    Each chunk carries a checksum, so that readers notice damage. Raises the `OSError` of a write that fails.
    """
    totals = {"ep_len": parts.num_episodes, "ep_offset": parts.num_episodes}
    with RawFile(path) as raw:
        with h5py.File(raw, "w", libver=FORMAT) as file:
            file.attrs.update({**attributes, "complete": True})
            columns: dict[str, _Column] = {}
            for rows in _numbered(parts.read()):
                for name, values in rows.items():
                    if name not in columns:
                        columns[name] = _Column(file, name, totals.get(name, parts.num_frames), values)
                    columns[name].append(values)
                    raw.check()
            for column in columns.values():
                column.finish()
        raw.check()


class _Column:
    """Column that is filled by whole chunks: HDF5 would compress a chunk again for each piece of it."""

    def __init__(self, file: h5py.File, name: str, total: int, like: NDArray[Any]) -> None:
        shape = like.shape[1:]
        self._chunk = min(total, CHUNK_FRAMES if name == "pixels" else 1024)
        self._waiting, self._written = [np.empty((0, *shape), like.dtype)], 0
        self._column = file.create_dataset(
            name,
            shape=(total, *shape),
            dtype=like.dtype,
            chunks=(self._chunk, *shape),
            fletcher32=True,
            **(COMPRESSION if name == "pixels" else {"compression": "gzip", "compression_opts": 1}),
        )

    def append(self, values: NDArray[Any]) -> None:
        self._waiting.append(values)
        if sum(map(len, self._waiting)) >= self._chunk:
            rows = np.concatenate(self._waiting)
            whole = len(rows) // self._chunk * self._chunk
            self._write(rows[:whole])
            self._waiting = [rows[whole:].copy()]

    def finish(self) -> None:
        """Writes the last chunk."""
        self._write(np.concatenate(self._waiting))

    def _write(self, rows: NDArray[Any]) -> None:
        if len(rows):
            self._column[self._written : self._written + len(rows)] = rows
            self._written += len(rows)


def _numbered(parts: Iterable[Columns]) -> Iterable[Columns]:
    """Columns of the parts, with those that number episodes and steps."""
    episode = row = 0
    for columns in parts:
        lengths = columns["ep_len"]
        yield {
            **columns,
            "episode_idx": np.repeat(np.arange(episode, episode + len(lengths)), lengths),
            "step_idx": np.concatenate([np.arange(length) for length in lengths]),
            "ep_offset": row + np.cumsum(lengths) - lengths,
        }
        episode, row = episode + len(lengths), row + int(lengths.sum())
