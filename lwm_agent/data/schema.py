"""Layout of a file of trajectories: the HDF5 layout of the released LeWorldModel data.

One row a frame, episodes one after the other::

    pixels       (N, h, h, 3)  uint8
    action       (N, A)        float32   action[t] leaves frame[t]; NaN in the last row of an episode
    state        (N, k)        float64   privileged simulator state, optional
    reward       (N,)          float32   reward of action[t], optional; NaN in the last row of an episode
    episode_idx  (N,)          int64     step_idx   (N,)  int64
    ep_len       (E,)          int64     ep_offset  (E,)  int64

Files written here also carry attributes: ``schema_version``, ``env_id``, ``env_kwargs`` (JSON), ``action_low``,
``action_high``, ``discrete`` where actions are one-hot, and the settings of the collection. Released files have none of
them, may have other columns, and load as they are; a reward of theirs is not read, as its rows may mean another action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

VERSION = 1
REQUIRED = ("pixels", "action", "ep_len", "ep_offset")
UNFINISHED = "run the collect or convert that wrote it again"


class DatasetError(UserError):
    """A file of trajectories cannot be used or written; the message says why and what to do."""


class Episode(NamedTuple):
    """One trajectory of n frames."""

    pixels: NDArray[np.uint8]  # (n, h, h, 3)
    action: NDArray[np.float32]  # (n - 1, A)
    state: NDArray[np.float64] | None = None  # (n, k)
    reward: NDArray[np.float32] | None = None  # (n - 1,)


def partial_path(path: Path) -> Path:
    """Folder in which episodes wait until the file `path` is complete."""
    return path.with_name(path.name + ".partial")


def check_pixels(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuses anything but square colour pictures, in an array or a column called `name`."""
    if len(shape) != 4 or shape[1] != shape[2] or shape[1] < 1 or shape[3] != 3 or dtype != np.uint8:
        raise DatasetError(f"{name} must be uint8 (N, h, h, 3), not {dtype} {shape}")


def check_episode(episode: Episode, discrete: bool) -> None:
    """Refuses an episode whose arrays do not fit together or hold what is no number."""
    pixels, action, state, reward = episode
    check_pixels(pixels.shape, pixels.dtype, "pixels")
    frames = len(pixels)
    if action.ndim != 2 or len(action) != frames - 1 or action.shape[1] < 1:
        raise DatasetError(f"{frames} frames need actions ({frames - 1}, A) between them, not {action.shape}")
    if state is not None and (state.ndim != 2 or len(state) != frames):
        raise DatasetError(f"{frames} frames need states ({frames}, k), not {state.shape}")
    if reward is not None and reward.shape != (frames - 1,):
        raise DatasetError(f"{frames} frames need rewards ({frames - 1},) between them, not {reward.shape}")
    for name, column in episode._asdict().items():
        if column is not None and name != "pixels" and not np.isfinite(column).all():
            raise DatasetError(f"{name} has NaN or infinity in row {np.argwhere(~np.isfinite(column))[0, 0]}")
    if discrete:
        check_one_hot(action, "discrete actions")


def check_one_hot(action: NDArray[np.float32], name: str) -> None:
    """Refuses actions ``(n, A)`` of a Discrete space that are not one-hot."""
    if not (np.isin(action, (0, 1)).all() and (action.sum(axis=1) == 1).all()):
        raise DatasetError(f"{name} must be one-hot rows: np.eye(number_of_actions)[indices]")


def check_spans(path: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64], num_frames: int) -> None:
    """Refuses episodes that do not cover all rows, one episode after the other."""
    if len(offsets) != len(lengths) or len(lengths) == 0:
        raise DatasetError(f"{path}: ep_offset has {len(offsets)} episodes and ep_len has {len(lengths)}")
    covered = False
    if lengths.min() >= 1 and lengths.max() <= num_frames and len(lengths) <= num_frames:  # so that sums are exact
        order = np.argsort(offsets)
        ends = np.cumsum(lengths[order])
        covered = bool((offsets[order] == ends - lengths[order]).all() and ends[-1] == num_frames)
    if not covered:
        raise DatasetError(
            f"{path}: ep_offset and ep_len do not cover the {num_frames} frames one episode after the other "
            f"(the lengths sum to {sum(lengths.tolist())})"
        )


def check_finite(path: Path, name: str, column: NDArray[Any], last: NDArray[np.int64] | None = None) -> None:
    """Refuses NaN and infinity in the column `name`, except in the rows `last`."""
    finite = np.isfinite(column).reshape(len(column), -1).all(axis=1)
    if last is not None:
        finite[last] = True
    if not finite.all():
        raise DatasetError(f"{path}: {name} has NaN or infinity in row {np.argmin(finite)}, inside an episode")
