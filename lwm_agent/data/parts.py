"""Closed part files: episodes on disk that wait until their data set is complete.

A folder holds the attributes of the data set and small HDF5 files of a few episodes each. A part is built in memory and
appears by a rename; its bytes are never changed. Its name holds its number and a hash of its bytes, so that a resumed
run notices every damage. HDF5 would rewrite the chunks that old and new episodes share, and crash on a full disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ..files import check_regular_file, read_text, replacing, write_text
from .hdf5 import ERRORS
from .raw_file import write_bytes
from .schema import DatasetError, Episode

SETTINGS = "settings.json"
COMPRESSION = hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.NOSHUFFLE)  # read once: fast to write
CHUNK_FRAMES = 64
_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{32})\.h5")

Columns = dict[str, NDArray[Any]]


class Part(NamedTuple):
    """Summary of a part."""

    name: str
    num_episodes: int
    num_frames: int
    num_outside: int  # actions outside the declared bounds
    row_shapes: dict[str, tuple[int, ...]]


class PartFolder:
    """Parts of one data set, in the folder `path`.

    Args:
        path: the folder.
        attributes: those of the data set; they must be equal to resume it.
        resume: keep the parts that are there; without it, they are removed.
    """

    def __init__(self, path: Path, attributes: Mapping[str, Any], resume: bool) -> None:
        self.path, self.parts = path, list[Part]()
        started = path.exists() and (not path.is_dir() or (path / SETTINGS).exists() or bool(self._names()))
        if resume and started:
            self._check_settings(attributes)
            self._recover()
            return
        self.remove()
        self.path.mkdir(parents=True)
        write_text(self.path / SETTINGS, json.dumps(dict(attributes), sort_keys=True))

    @property
    def num_episodes(self) -> int:
        """Episodes in all parts."""
        return sum(part.num_episodes for part in self.parts)

    @property
    def num_frames(self) -> int:
        """Frames in all parts."""
        return sum(part.num_frames for part in self.parts)

    def append(self, episodes: Sequence[Episode], num_outside: int) -> None:
        """Adds a part of these episodes.

        Raises:
            DatasetError: another process adds parts to the folder.
            FileError: the part cannot be written; those before it are unharmed.
        """
        self._check_alone()
        columns = _columns(episodes)
        image = _image(columns, num_outside)
        name = f"part-{len(self.parts):06d}-{_hash(image)}.h5"
        with replacing(self.path / name) as partial:
            write_bytes(partial, image)
        self.parts.append(_summary(name, columns, num_outside))

    def read(self) -> Iterator[Columns]:
        """Columns of one part after the other; actions and rewards have a row of NaN at the end of each episode."""
        self._check_alone()
        for part in self.parts:
            columns = self._columns(part.name)
            if columns is None:
                raise DatasetError(f"{self.path / part.name} is damaged: run the same command again to replace it")
            yield columns[0]

    def remove(self) -> None:
        """Removes the folder with all that is in it, or a file that an earlier version left in its place."""
        for removed in self.path.parent.glob(f".removed-????????-{self.path.name}"):
            shutil.rmtree(removed, ignore_errors=True)
        if self.path.is_dir():
            # Renamed first: what is half removed must not be taken for the first parts of a data set.
            removed = self.path.with_name(f".removed-{uuid4().hex[:8]}-{self.path.name}")
            self.path.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)

    def _names(self) -> list[tuple[int, str]]:
        """Number and name of each part on the disk, in order."""
        matches = [match for match in map(_NAME.fullmatch, (path.name for path in self.path.iterdir())) if match]
        return sorted((int(match[1]), match[0]) for match in matches)

    def _check_alone(self) -> None:
        """Refuses to go on when the folder does not hold exactly the parts that this process knows."""
        try:
            names = [name for _, name in self._names()]
        except FileNotFoundError:
            names = []
        if names != [part.name for part in self.parts] or not self.path.is_dir():
            raise DatasetError(f"{self.path} has changed: another process is writing to it")

    def _check_settings(self, attributes: Mapping[str, Any]) -> None:
        """Refuses a folder that was begun with other attributes."""
        damaged = f"{self.path} is damaged (%s): remove it and start again"
        if not self.path.is_dir():
            raise DatasetError(damaged % "it is not a folder: an earlier version wrote a file")
        if not (self.path / SETTINGS).exists():
            raise DatasetError(damaged % f"it has no {SETTINGS}")
        text = read_text(self.path / SETTINGS)
        try:
            stored = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DatasetError(damaged % error) from error
        wanted = json.loads(json.dumps(dict(attributes)))
        stored = {"discrete": False, **stored} if isinstance(stored, dict) else {}
        differences = [
            f"{name} is {stored.get(name)!r} there and {value!r} here"
            for name, value in {"discrete": False, **wanted}.items()
            if stored.get(name) != value
        ]
        if differences:
            raise DatasetError(
                f"{self.path} was begun with other settings: {'; '.join(differences)}. "
                "Use the same ones to resume it, or remove it to start again"
            )

    def _recover(self) -> None:
        """Keeps the parts up to the first that is missing or damaged, and removes all others and unfinished files."""
        names = self._names()
        if len({number for number, _ in names}) < len(names):
            raise DatasetError(f"{self.path} has two parts of one number: two processes wrote to it; remove it")
        for index, (number, name) in enumerate(names):
            columns = self._columns(name) if number == index else None
            if columns is None:
                break
            self.parts.append(_summary(name, *columns))
        kept = {SETTINGS, *(part.name for part in self.parts)}
        if len(kept) - 1 < len(names):
            warnings.warn(
                f"{self.path}: part {len(self.parts)} is missing or damaged: episodes from number {self.num_episodes} "
                "on are dropped, and recorded again",
                stacklevel=5,
            )
        for path in sorted(self.path.iterdir(), reverse=True):
            if path.name not in kept and path.is_file():
                path.unlink(missing_ok=True)

    def _columns(self, name: str) -> tuple[Columns, int] | None:
        """Columns of a part and the number of its actions outside the bounds; None if its bytes are not as written."""
        check_regular_file(self.path / name)
        image = (self.path / name).read_bytes()
        match = _NAME.fullmatch(name)
        if match is None or _hash(image) != match[2]:
            return None
        try:
            with h5py.File(io.BytesIO(image), "r") as file:
                return {key: column[:] for key, column in file.items()}, int(file.attrs["num_outside"])
        except ERRORS as error:
            raise DatasetError(f"{self.path / name} cannot be read ({error}): remove {self.path}") from error


def _columns(episodes: Sequence[Episode]) -> Columns:
    """Rows of all episodes, one after the other."""
    columns: Columns = {
        "pixels": np.concatenate([episode.pixels for episode in episodes]),
        "action": np.concatenate([np.pad(e.action, ((0, 1), (0, 0)), constant_values=np.nan) for e in episodes]),
        "ep_len": np.array([len(episode.pixels) for episode in episodes]),
    }
    states = [episode.state for episode in episodes if episode.state is not None]
    rewards = [np.append(e.reward, np.float32(np.nan)) for e in episodes if e.reward is not None]
    if states:
        columns["state"] = np.concatenate(states)
    if rewards:
        columns["reward"] = np.concatenate(rewards)
    return columns


def _image(columns: Columns, num_outside: int) -> bytes:
    """HDF5 file, built in memory."""
    with h5py.File(uuid4().hex, "w", driver="core", backing_store=False) as file:
        file.attrs["num_outside"] = num_outside
        for name, values in columns.items():
            options = {"chunks": (min(CHUNK_FRAMES, len(values)), *values.shape[1:]), **COMPRESSION}
            file.create_dataset(name, data=values, **(options if name == "pixels" else {}))
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _summary(name: str, columns: Columns, num_outside: int) -> Part:
    shapes = {key: values.shape[1:] for key, values in columns.items() if key != "ep_len"}
    return Part(name, len(columns["ep_len"]), len(columns["pixels"]), num_outside, shapes)


def _hash(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=16).hexdigest()
