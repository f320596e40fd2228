"""Trajectories, and the training clips cut from them. The file format is described in `schema`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .schema import DatasetError, Episode, check_episodes, open_file, reading

__all__ = [
    "Clips",
    "DatasetError",
    "Episode",
    "Mixture",
    "Progress",
    "Trajectories",
    "Windows",
    "shares",
    "split",
    "taken_actions",
]

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""


class Clips(NamedTuple):
    """B training clips: every F-th frame, and the F actions between two of them."""

    pixels: NDArray[np.uint8]  # (B, L, h, h, 3)
    env_action: NDArray[np.float32]  # (B, L - 1, F, A)
    state: NDArray[np.float64] | None  # (B, L, k)


@dataclass(frozen=True, eq=False)
class Trajectories:
    """E episodes of N frames in all; `open` reads them from a file.

    Attributes:
        path: where they come from.
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

    @classmethod
    def open(
        cls, path: str | Path, in_memory: bool | Literal["auto"] = "auto", progress: Progress | None = None
    ) -> Trajectories:
        """Opens and checks a file; `in_memory` "auto" loads the pixels if they fit in half of the free memory.

        `progress` is called with frames loaded and their number. Raises `DatasetError` if the file cannot be used.
        """
        path = Path(path)
        file = open_file(path)
        with reading(path):
            columns = {name: file[name][:] for name in ("action", "state", "ep_offset", "ep_len") if name in file}
        action = columns["action"].astype(np.float32)
        offsets, lengths = columns["ep_offset"].astype(np.int64), columns["ep_len"].astype(np.int64)
        check_episodes(path, offsets, lengths, action)
        pixels = file["pixels"]
        if in_memory == "auto":
            in_memory = pixels.nbytes < _available_memory() / 2
        return cls(
            path=path,
            pixels=_load(pixels, path, progress) if in_memory else pixels,
            action=action,
            state=columns["state"].astype(np.float64) if "state" in columns else None,
            offsets=offsets,
            lengths=lengths,
            env_id=file.attrs.get("env_id"),
            env_kwargs=json.loads(file.attrs.get("env_kwargs", "{}")),
            action_low=file.attrs.get("action_low"),
            action_high=file.attrs.get("action_high"),
            discrete=bool(file.attrs.get("discrete", False)),
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

    def episode(self, index: int) -> Episode:
        """Everything recorded in one episode."""
        start = int(self.offsets[index])
        stop = start + int(self.lengths[index])
        with reading(self.path):
            pixels = self.pixels[start:stop]
        return Episode(pixels, self.action[start : stop - 1], None if self.state is None else self.state[start:stop])

    def frames(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames ``(*rows.shape, h, h, 3)`` at any `rows`."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels[rows]
        # One read a frame: HDF5 is 50 times slower to gather rows itself, and caches the chunk that neighbours share.
        with reading(self.path):
            frames = np.stack([self.pixels[row] for row in rows.flat])
        return frames.reshape(*rows.shape, *self.pixels.shape[1:])


class Windows:
    """All clips of `clip_length` (L) frames, `frameskip` (F) steps apart, that lie within one of `episodes`."""

    def __init__(
        self, trajectories: Trajectories, episodes: NDArray[np.int64], clip_length: int, frameskip: int
    ) -> None:
        if clip_length < 1 or frameskip < 1:
            raise UserError(f"clip_length={clip_length} and frameskip={frameskip} must be at least 1")
        self.trajectories, self.clip_length, self.frameskip = trajectories, clip_length, frameskip
        self._span = (clip_length - 1) * frameskip
        offsets, lengths = trajectories.offsets[episodes], trajectories.lengths[episodes]
        counts = lengths - self._span
        if len(counts) == 0 or counts.max() < 1:
            raise DatasetError(
                f"a clip of {clip_length} frames at frameskip {frameskip} needs an episode of {self._span + 1} frames; "
                f"the longest of these {len(counts)} has {lengths.max(initial=0)}: lower clip_length or frameskip"
            )
        starts = [np.arange(first, first + count) for first, count in zip(offsets, counts, strict=True) if count > 0]
        self._starts: NDArray[np.int64] = np.concatenate(starts)

    def __len__(self) -> int:
        return len(self._starts)

    def sample(self, num: int, rng: np.random.Generator) -> Clips:
        """`num` clips, each uniform over all of them."""
        return self.at(rng.integers(len(self), size=num))

    def at(self, indices: NDArray[np.int64]) -> Clips:
        """The clips with these numbers, each from 0 to ``len(self) - 1``."""
        rows, action = self.rows(indices)
        state = self.trajectories.state
        return Clips(self.trajectories.frames(rows), action, None if state is None else state[rows])

    def rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Where the frames of these clips are in the file, ``(num, L)``, and the actions ``(num, L - 1, F, A)``."""
        first = self._starts[indices][:, None]
        action = self.trajectories.action[first + np.arange(self._span)]
        shape = (len(first), self.clip_length - 1, self.frameskip, self.trajectories.action_size)
        return first + np.arange(0, self._span + 1, self.frameskip), action.reshape(shape)


@dataclass(frozen=True)
class Mixture:
    """Clips of several files, each of which fills the same share of every batch, however long it is."""

    windows: Sequence[Windows]

    def sample(self, num: int, rng: np.random.Generator) -> Clips:
        """`num` clips in random order; of one file, each uniform over all of them."""
        if len(self.windows) == 1:
            return self.windows[0].sample(num, rng)
        pairs = zip(self.windows, shares(num, len(self.windows)), strict=True)
        parts = [windows.sample(share, rng) for windows, share in pairs]
        pixels, env_action, states = zip(*parts, strict=True)
        order = rng.permutation(num)  # who takes a part of a batch takes of all files
        told = [state for state in states if state is not None]
        state = np.concatenate(told)[order] if len(told) == len(states) else None
        return Clips(np.concatenate(pixels)[order], np.concatenate(env_action)[order], state)


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def split(num_episodes: int, validation: float = 0.05, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the training and of the validation episodes, at least one of each."""
    if num_episodes < 2 or not 0 < validation < 1:
        raise UserError(f"cannot split {num_episodes} episodes at validation={validation}: needs 2, a share in (0, 1)")
    count = min(max(1, round(validation * num_episodes)), num_episodes - 1)
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[count:]), np.sort(order[:count])


def taken_actions(trajectories: Trajectories, episodes: NDArray[np.int64]) -> NDArray[np.float32]:
    """All actions of `episodes`, ``(n, A)``: the last row of an episode has none."""
    spans = zip(trajectories.offsets[episodes], trajectories.lengths[episodes], strict=True)
    return np.concatenate([trajectories.action[first : first + length - 1] for first, length in spans])


def _load(pixels: Any, path: Path, progress: Progress | None, block: int = 4096) -> NDArray[np.uint8]:
    loaded = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), block):
        stop = min(start + block, len(pixels))
        with reading(path):
            pixels.read_direct(loaded, np.s_[start:stop], np.s_[start:stop])
        if progress is not None:
            progress(stop, len(pixels))
    return loaded


def _available_memory() -> int:
    """Bytes of memory to be had without swapping; 0, so that pixels stay on disk, where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
