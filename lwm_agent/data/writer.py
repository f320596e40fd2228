"""Writer of trajectories in the layout of `schema`: atomic, and resumable after a kill at any moment."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..files import advice, check_writable, replacing, resolved
from .attributes import Attributes
from .merge import merge
from .parts import PartFolder
from .schema import VERSION, DatasetError, Episode, check_episode, partial_path

BUFFER_FRAMES = 2048
BUFFER_BYTES = 2**26
"""Frames and bytes of pixels that wait in memory, and that a killed run loses at most, beside one episode."""

RESERVED = ("schema_version", "complete", "env_id", "env_kwargs", "action_low", "action_high", "discrete")


class TrajectoryWriter:
    """Context manager that writes episodes to `path`; the file appears there only when the block ends without an error.

    >>> with TrajectoryWriter("mine.h5", env_id="lwm/PushT-v0") as writer:
    ...     for pixels, action, state in my_episodes:  # (n, h, h, 3) uint8, (n - 1, A), (n, k) or None
    ...         writer.add(pixels, action, state)

    Until then episodes are in the folder ``path.partial``, in part files that are never changed. At the end they are
    merged, which needs the space of the data set once more. With `resume` a partial folder goes on after its
    `num_episodes`, if its attributes are the same. Parts that were damaged are dropped, with a warning.

    Args:
        path: file to write.
        env_id: id for ``gymnasium.make``.
        env_kwargs: its keyword arguments, which must fit in JSON.
        action_low: lower bounds of the action space, ``(A,)``.
        action_high: upper bounds of the action space, ``(A,)``. At most 2 % of the actions may lie outside.
        discrete: whether actions are the one-hot rows of a Discrete space of A actions.
        attributes: more to note in the file, such as policy and seed.
        resume: go on with a partial folder; without it, one is replaced.
        overwrite: replace `path` if it exists.

    Raises:
        DatasetError: a value cannot be right, `path` cannot be written, or a partial folder cannot be resumed.
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
        check_output(path, overwrite)
        self.path = resolved(path) if Path(path).is_symlink() else Path(path)
        self._declared = Attributes(
            env_id=env_id,
            env_kwargs={} if env_kwargs is None else env_kwargs,
            action_low=action_low,
            action_high=action_high,
            discrete=discrete,
        )
        self._attributes = {**_stored(self._declared), **_checked(attributes or {})}
        self._buffer: list[Episode] = []
        self._open = True
        with _disk_errors(self.path, 0):
            self._parts = PartFolder(partial_path(self.path), _plain(self._attributes), resume)
        parts = self._parts.parts
        self._row_shapes = parts[0].row_shapes if parts else {}
        self._num_outside = sum(part.num_outside for part in parts)
        self._num_actions = self._parts.num_frames - self._parts.num_episodes

    @property
    def num_episodes(self) -> int:
        """Episodes added so far, those of a resumed folder among them."""
        return self._parts.num_episodes + len(self._buffer)

    def add(
        self,
        pixels: ArrayLike,
        action: ArrayLike,
        state: ArrayLike | None = None,
        reward: ArrayLike | None = None,
    ) -> None:
        """Appends a copy of an episode of n frames.

        Args:
            pixels: uint8 ``(n, h, h, 3)``.
            action: actions between the frames, ``(n - 1, A)``.
            state: privileged states, ``(n, k)``.
            reward: reward of each action, ``(n - 1,)``.
        """
        if not self._open:
            raise DatasetError(f"{self.path} is closed: make another writer")
        episode = Episode(
            _copied("pixels", pixels, None),
            _copied("action", action, np.float32),
            None if state is None else _copied("state", state, np.float64),
            None if reward is None else _copied("reward", reward, np.float32),
        )
        check_episode(episode, self._declared.discrete)
        shapes = {name: column.shape[1:] for name, column in episode._asdict().items() if column is not None}
        if self._row_shapes and shapes != self._row_shapes:
            raise DatasetError(f"this episode has rows of {shapes}, those before of {self._row_shapes}")
        self._check_declared(episode)
        self._row_shapes = shapes
        self._buffer.append(episode)
        frames = sum(len(episode.pixels) for episode in self._buffer)
        if frames >= BUFFER_FRAMES or frames * episode.pixels[0].nbytes >= BUFFER_BYTES:
            self._flush()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if error is not None:
            with suppress(DatasetError):  # the error that ended the block says more
                self._flush()
            return
        self._flush()
        if not self.num_episodes:
            self._parts.remove()
            warnings.warn(f"no episode was added: {self.path} is not written", stacklevel=2)
            return
        self._check_outside()
        with _disk_errors(self.path, self._parts.num_episodes):
            merged = self._parts.path / "merged.h5"  # in the folder: what is left of an interrupted one goes with it
            merge(self._parts, self._attributes, merged)
            with replacing(self.path) as partial:
                os.replace(merged, partial)
            self._parts.remove()

    def _flush(self) -> None:
        """Writes the waiting episodes to a part."""
        if not self._buffer:
            return
        if self._num_actions >= BUFFER_FRAMES:
            self._check_outside()
        outside = sum(self._declared.num_outside(episode.action) for episode in self._buffer)
        with _disk_errors(self.path, self._parts.num_episodes):
            self._parts.append(self._buffer, outside)
        self._buffer = []

    def _check_declared(self, episode: Episode) -> None:
        """Refuses an episode that contradicts the declared attributes, and counts its actions outside the bounds."""
        self._declared.check_columns(episode.pixels.shape[1], episode.action.shape[1])
        outside = self._declared.num_outside(episode.action)
        if outside > len(episode.action) / 2:  # another unit; noise is judged when there is more of it
            self._declared.check_outside(f"{self.path}, episode {self.num_episodes}", outside, len(episode.action))
        self._num_outside += outside
        self._num_actions += len(episode.action)

    def _check_outside(self) -> None:
        self._declared.check_outside(str(self.path), self._num_outside, self._num_actions)


@contextmanager
def _disk_errors(path: Path, num_episodes: int) -> Iterator[None]:
    """Turns an `OSError` inside the block into a `DatasetError` that says what is safe and how to go on."""
    try:
        yield
    except DatasetError:
        raise
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise DatasetError(
            f"{path} cannot be written: {advice(cause)}. {num_episodes} episodes are safe in {partial_path(path)}: "
            "mend the cause and run the same command again, which goes on there"
        ) from error


def check_output(path: str | Path, overwrite: bool = False) -> None:
    """Refuses, before any work, a file that exists already or could not be written."""
    if not str(path) or str(path) == ".":
        raise DatasetError(f"{str(path)!r} names no file to write")
    try:
        check_writable(path)
        exists = Path(path).exists() or Path(path).is_symlink()
    except (OSError, ValueError) as error:
        raise DatasetError(str(error)) from error
    if exists and not overwrite:
        raise DatasetError(f"{path} exists already: remove it or choose another name")


def _stored(declared: Attributes) -> dict[str, Any]:
    """Attributes as HDF5 stores them."""
    try:
        env_kwargs = json.dumps(dict(declared.env_kwargs), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"env_kwargs={declared.env_kwargs!r} must fit in JSON ({error})") from error
    bounds = {name: getattr(declared, name) for name in ("action_low", "action_high")}
    return {
        "schema_version": VERSION,
        "env_kwargs": env_kwargs,
        **({} if declared.env_id is None else {"env_id": declared.env_id}),
        **{name: bound for name, bound in bounds.items() if bound is not None},
        **({"discrete": True} if declared.discrete else {}),
    }


def _checked(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """The caller's own attributes."""
    for name, value in attributes.items():
        if name in RESERVED:
            raise DatasetError(f"attribute {name!r} belongs to the file format: choose another name")
        if not isinstance(value, str | int | float | np.number | np.bool_):
            raise DatasetError(f"attribute {name}={value!r} must be a text or a number")
        if not isinstance(value, str) and not -(2.0**63) <= value < 2.0**63:  # NaN too
            raise DatasetError(f"attribute {name}={value!r} must be a finite number of at most 64 bits")
    return dict(attributes)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON stores them."""
    return {name: np.asarray(value).tolist() for name, value in attributes.items()}


def _copied(name: str, values: ArrayLike, dtype: type[np.generic] | None) -> Any:
    """Array of its own: the caller may use the memory again."""
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{name} must be an array of numbers ({error})") from error
