"""Writes trajectories in the layout that `dataset` reads, atomically, and so that a killed run can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .schema import VERSION, DatasetError, Episode, check_pixels, partial_path

CHUNK_FRAMES = 16  # a clip of 4 frames at frameskip 5 spans 16
PER_EPISODE = ("ep_offset", "ep_len")  # columns; of all others, a row is a frame
BUFFER_FRAMES = 2048  # what a killed run loses at most, and rarely more than 25 MB
# 64-px Push-T takes about 200 bytes a frame. Of what is that small this is the fastest to read at random, as
# benchmarks/data_loading.py shows.
COMPRESSION = hdf5plugin.Blosc(cname="lz4hc", clevel=5, shuffle=hdf5plugin.Blosc.NOSHUFFLE)


class TrajectoryWriter:
    """Context manager that writes episodes to `path`; the file appears there only when the block ends without an error.

    >>> with TrajectoryWriter("mine.h5", env_id="lwm/PushT-v0") as writer:
    ...     for pixels, action, state in my_episodes:  # (n, h, h, 3) uint8, (n - 1, A), (n, k) or None
    ...         writer.add(pixels, action, state)

    Until then it is ``path.partial``, which is closed after each write. With `resume` a partial file goes on after its
    `num_episodes`, if its attributes are the same; what an interruption left of an unfinished write is overwritten.

    Args:
        path: where to write.
        env_id: id for ``gymnasium.make``.
        env_kwargs: its keyword arguments, which must fit in JSON.
        action_low: lower bounds of the action space, ``(A,)``.
        action_high: upper bounds of the action space, ``(A,)``.
        discrete: whether actions are the one-hot rows of a Discrete space of A actions.
        attributes: more to note in the file, such as policy and seed.
        resume: go on with a partial file; without it, one is replaced.
        overwrite: replace `path` if it exists.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        env_id: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        action_low: ArrayLike | None = None,
        action_high: ArrayLike | None = None,
        discrete: bool = False,
        attributes: Mapping[str, str | int | float] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise DatasetError(f"{self.path} exists already: remove it or choose another name")
        bounds = {"action_low": action_low, "action_high": action_high}
        self._attributes: dict[str, Any] = {
            "schema_version": VERSION,
            "env_kwargs": json.dumps(dict(env_kwargs or {}), sort_keys=True),
            **({} if env_id is None else {"env_id": env_id}),
            **{name: np.asarray(bound, np.float32) for name, bound in bounds.items() if bound is not None},
            **({"discrete": True} if discrete else {}),
            **(attributes or {}),
        }
        self._partial = partial_path(self.path)
        self._buffer: list[Episode] = []
        self._written = 0
        self._row_shapes: dict[str, tuple[int, ...]] = {}
        if resume and self._partial.exists():
            self._resume()
        else:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(self._partial, "w") as file:
                file.attrs.update({**self._attributes, "complete": False})

    @property
    def num_episodes(self) -> int:
        """Episodes added so far, those of a resumed file among them."""
        return self._written + len(self._buffer)

    def add(self, pixels: ArrayLike, action: ArrayLike, state: ArrayLike | None = None) -> None:
        """Appends an episode: uint8 pixels ``(n, h, h, 3)``, the actions between ``(n - 1, A)``, states ``(n, k)``."""
        episode = Episode(
            np.asarray(pixels), np.asarray(action, np.float32), None if state is None else np.asarray(state, np.float64)
        )
        _check(episode, discrete="discrete" in self._attributes)
        shapes = {name: column.shape[1:] for name, column in episode._asdict().items() if column is not None}
        self._row_shapes = self._row_shapes or shapes
        if shapes != self._row_shapes:
            raise DatasetError(f"this episode has rows of {shapes}, those before of {self._row_shapes}")
        self._buffer.append(episode)
        if sum(len(episode.pixels) for episode in self._buffer) >= BUFFER_FRAMES:
            self._flush()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._flush()
        if error is None:
            with h5py.File(self._partial, "r+") as file:
                file.attrs["complete"] = True
            os.replace(self._partial, self.path)

    def _resume(self) -> None:
        try:
            with h5py.File(self._partial, "r") as file:
                found = _plain(file.attrs)
                self._written = _num_episodes(file)
                told = Episode._fields if self._written else ()
                self._row_shapes = {name: file[name].shape[1:] for name in told if name in file}
        except OSError as error:
            raise DatasetError(f"{self._partial} is damaged ({error}): remove it and start again") from error
        found.setdefault("discrete", False)
        differences = [
            f"{name} is {found.get(name)!r} there and {value!r} here"
            for name, value in {"discrete": False, **_plain(self._attributes)}.items()
            if found.get(name) != value
        ]
        if differences:
            raise DatasetError(
                f"{self._partial} was begun with other settings: {'; '.join(differences)}. "
                "Use the same ones to resume it, or remove it to start again"
            )

    def _flush(self) -> None:
        episodes, self._buffer = self._buffer, []
        if not episodes:
            return
        with h5py.File(self._partial, "r+") as file:
            first = _num_episodes(file)
            if first != self._written:
                raise DatasetError(f"{self._partial} has changed: another process is writing to it")
            row = int(file["ep_offset"][first - 1] + file["ep_len"][first - 1]) if first else 0
            for name, values in _columns(episodes, first, row).items():
                _write(file, name, values, first if name in PER_EPISODE else row)
        self._written += len(episodes)


def _num_episodes(file: h5py.File) -> int:
    """Episodes that are complete: their lengths are written last, and are zeros until then."""
    return int(np.count_nonzero(file["ep_len"])) if "ep_len" in file else 0


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in attributes.items()}


def _check(episode: Episode, discrete: bool) -> None:
    pixels, action, state = episode
    check_pixels(pixels, "pixels")
    if action.ndim != 2 or len(action) != len(pixels) - 1:
        raise DatasetError(f"{len(pixels)} frames need actions ({len(pixels) - 1}, A) between them, not {action.shape}")
    if not np.isfinite(action).all():
        raise DatasetError(f"action has NaN or infinity in row {np.argmin(np.isfinite(action).all(1))}")
    if discrete and not (np.isin(action, (0, 1)).all() and (action.sum(axis=1) == 1).all()):
        raise DatasetError("discrete actions must be one-hot rows: np.eye(number_of_actions)[indices]")
    if state is not None and (state.ndim != 2 or len(state) != len(pixels)):
        raise DatasetError(f"{len(pixels)} frames need states ({len(pixels)}, k), not {state.shape}")


def _columns(episodes: list[Episode], first_episode: int, first_row: int) -> dict[str, NDArray[Any]]:
    lengths = np.array([len(episode.pixels) for episode in episodes])
    columns: dict[str, NDArray[Any]] = {
        "pixels": np.concatenate([episode.pixels for episode in episodes]),
        "action": np.concatenate([np.pad(e.action, ((0, 1), (0, 0)), constant_values=np.nan) for e in episodes]),
        "episode_idx": np.repeat(np.arange(first_episode, first_episode + len(episodes)), lengths),
        "step_idx": np.concatenate([np.arange(length) for length in lengths]),
    }
    states = [episode.state for episode in episodes if episode.state is not None]
    if states:
        columns["state"] = np.concatenate(states)
    return {**columns, "ep_offset": first_row + np.cumsum(lengths) - lengths, "ep_len": lengths}  # the last, last


def _write(file: h5py.File, name: str, values: NDArray[Any], first: int) -> None:
    """Makes `values` the rows of a column from `first` to its end."""
    shape = values.shape[1:]
    if name not in file:
        chunk = CHUNK_FRAMES if name == "pixels" else 256 if name in PER_EPISODE else 1024
        file.create_dataset(
            name,
            shape=(0, *shape),
            maxshape=(None, *shape),
            dtype=values.dtype,
            chunks=(chunk, *shape),
            **(COMPRESSION if name == "pixels" else {"compression": "gzip", "compression_opts": 1}),
        )
    column = file[name]
    column.resize(first + len(values), axis=0)
    column[first:] = values
