"""Trajectories: episodes in memory or in an HDF5 file. The file format is described in `schema`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from ..compute.memory import free_host_memory
from ..errors import UserError
from .attributes import Attributes, parse_attributes
from .hdf5 import columns_of, hdf5_errors, open_file
from .schema import DatasetError, Episode, check_finite, check_one_hot, check_spans

__all__ = ["DatasetError", "Episode", "Progress", "Trajectories", "all_actions", "split"]

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""

SAMPLED_ROWS, SAMPLED_FRAMES = 4096, 8  # of a fingerprint: reading so many takes a few milliseconds


@dataclass(frozen=True, eq=False)
class Trajectories:
    """E episodes of N frames in all; `open` reads them from a file.

    Attributes:
        path: file that they come from.
        pixels: ``(N, h, h, 3)`` uint8, in memory or an HDF5 data set.
        action: ``(N, A)``, in environment units, NaN in the last row of an episode.
        state: ``(N, k)``, where the file has it.
        offsets: row of the first frame of each episode, ``(E,)``.
        lengths: frames of each episode, ``(E,)``.
        env_id: id for ``gymnasium.make``, like the next three None or empty where the file does not say.
        env_kwargs: its keyword arguments.
        action_low: lower bounds of the action space, ``(A,)``.
        action_high: upper bounds of the action space, ``(A,)``.
        discrete: whether actions are the one-hot rows of a Discrete space.
        reward: ``(N,)``, of the action in the same row, where the file has it; NaN in the last row of an episode.
    """

    path: Path
    pixels: Any
    action: NDArray[np.float32]
    state: NDArray[np.float64] | None
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    action_low: NDArray[np.float32] | None = None
    action_high: NDArray[np.float32] | None = None
    discrete: bool = False
    reward: NDArray[np.float32] | None = None

    @classmethod
    def open(
        cls, path: str | Path, in_memory: bool | Literal["auto"] = "auto", progress: Progress | None = None
    ) -> Trajectories:
        """Opens and checks a file; `in_memory` "auto" loads the pixels if they fit in half of the free memory.

        `progress` is called with frames loaded and their number. Raises `DatasetError` if the file cannot be used.
        """
        path = Path(path)
        file = open_file(path)
        try:
            columns, attributes = _read_columns(file, path), _read_attributes(file, path)
            pixels = file["pixels"]
            _check_values(path, pixels.shape[1], columns, attributes)
            if in_memory == "auto":
                in_memory = pixels.nbytes < free_host_memory() / 2
            if in_memory:
                pixels = _load(pixels, path, progress)
                file.close()
        except BaseException:
            file.close()
            raise
        return cls(
            path=path,
            pixels=pixels,
            action=columns["action"],
            state=columns.get("state"),
            reward=columns.get("reward"),
            offsets=columns["ep_offset"],
            lengths=columns["ep_len"],
            env_id=attributes.env_id,
            env_kwargs=dict(attributes.env_kwargs),
            action_low=attributes.action_low,
            action_high=attributes.action_high,
            discrete=attributes.discrete,
        )

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.action)

    @property
    def num_episodes(self) -> int:
        """E."""
        return len(self.lengths)

    @property
    def action_size(self) -> int:
        """A."""
        return int(self.action.shape[1])

    @property
    def image_size(self) -> int:
        """Side of the square frames, px."""
        return int(self.pixels.shape[1])

    @property
    def fingerprint(self) -> str:
        """Hash of the contents, to notice that other data lie under the same path; it takes a few milliseconds.

        It covers the sizes of all columns, the lengths of all episodes, and a fixed sample of frames, actions, states
        and rewards. A copy of the file, or one that is compressed otherwise, has the same.
        """
        digest = hashlib.blake2b(digest_size=16)
        shapes = [None if x is None else x.shape for x in (self.pixels, self.action, self.state, self.reward)]
        digest.update(repr(shapes).encode())
        digest.update(self.offsets.astype("<i8").tobytes() + self.lengths.astype("<i8").tobytes())
        rows = _sampled(self.num_frames, SAMPLED_ROWS)
        for column, dtype in ((self.action, "<f4"), (self.state, "<f8"), (self.reward, "<f4")):
            if column is not None:
                digest.update(np.nan_to_num(column[rows]).astype(dtype).tobytes())
        digest.update(self.frames(_sampled(self.num_frames, SAMPLED_FRAMES)).tobytes())
        return digest.hexdigest()

    def episode(self, index: int) -> Episode:
        """Copy of everything recorded in one episode."""
        start = int(self.offsets[index])
        stop = start + int(self.lengths[index])
        with hdf5_errors(self.path):
            pixels = np.array(self.pixels[start:stop])
        return Episode(
            pixels,
            self.action[start : stop - 1].copy(),
            None if self.state is None else self.state[start:stop].copy(),
            None if self.reward is None else self.reward[start : stop - 1].copy(),
        )

    def frames(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames ``(*rows.shape, h, h, 3)`` at any `rows`."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels[rows]
        # One read a frame: HDF5 is 50 times slower to gather rows itself, and caches the chunk that neighbours share.
        with hdf5_errors(self.path):
            frames = np.stack([self.pixels[row] for row in rows.flat])
        return frames.reshape(*rows.shape, *self.pixels.shape[1:])


def split(num_episodes: int, validation: float = 0.05, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the training and of the validation episodes, at least one of each."""
    if num_episodes < 2 or not 0 < validation < 1:
        raise UserError(f"cannot split {num_episodes} episodes at validation={validation}: needs 2, a share in (0, 1)")
    count = min(max(1, round(validation * num_episodes)), num_episodes - 1)
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[count:]), np.sort(order[:count])


def all_actions(trajectories: Trajectories, episodes: NDArray[np.int64]) -> NDArray[np.float32]:
    """All actions of `episodes`, ``(n, A)``: the last row of an episode has none."""
    spans = zip(trajectories.offsets[episodes], trajectories.lengths[episodes], strict=True)
    return np.concatenate([trajectories.action[first : first + length - 1] for first, length in spans])


def _read_columns(file: h5py.File, path: Path) -> dict[str, NDArray[Any]]:
    """All columns but the pixels, in the types of `Trajectories`."""
    types = {"action": np.float32, "state": np.float64, "reward": np.float32, "ep_offset": np.int64, "ep_len": np.int64}
    with hdf5_errors(path), np.errstate(over="ignore", invalid="ignore"):
        return {name: file[name][:].astype(types[name]) for name in columns_of(file) if name != "pixels"}


def _read_attributes(file: h5py.File, path: Path) -> Attributes:
    with hdf5_errors(path):
        values = dict(file.attrs)
    try:
        return parse_attributes(values)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def _check_values(path: Path, image_size: int, columns: dict[str, NDArray[Any]], attributes: Attributes) -> None:
    """Refuses numbers that cannot be right, and columns that contradict each other or the attributes."""
    action, offsets, lengths = columns["action"], columns["ep_offset"], columns["ep_len"]
    check_spans(path, offsets, lengths, len(action))
    last = offsets + lengths - 1
    check_finite(path, "action", action, last)
    if "state" in columns:
        check_finite(path, "state", columns["state"])
    if "reward" in columns:
        check_finite(path, "reward", columns["reward"], last)
    try:
        attributes.check_columns(image_size, action.shape[1])
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    inside = np.delete(action, last, axis=0)
    if attributes.discrete:
        check_one_hot(inside, f"{path}: discrete actions")
    attributes.check_outside(str(path), attributes.num_outside(inside), len(inside))


def _load(pixels: Any, path: Path, progress: Progress | None, block: int = 4096) -> NDArray[np.uint8]:
    """All pixels, read `block` frames at a time."""
    with hdf5_errors(path):
        loaded = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), block):
        stop = min(start + block, len(pixels))
        with hdf5_errors(path):
            pixels.read_direct(loaded, np.s_[start:stop], np.s_[start:stop])
        if progress is not None:
            progress(stop, len(pixels))
    return loaded


def _sampled(total: int, num: int) -> NDArray[np.int64]:
    """At most `num` row numbers, spread evenly over `total` rows, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(num, total)).round().astype(np.int64))
