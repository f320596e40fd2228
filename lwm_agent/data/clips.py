"""Training clips, cut from trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .schema import DatasetError
from .trajectories import Trajectories

OTHER_SHARE = 0.1
"""Share of the hindsight goals that come from another trajectory."""

UNRELATED = -1
"""Steps to a goal that another trajectory reached."""


class Clips(NamedTuple):
    """B training clips: every F-th frame, and the F actions between two of them.

    A goal is a frame that the same trajectory shows `goal_steps` environment steps after the first frame of the clip,
    or, where those are `UNRELATED`, a frame of another one. A reward is the sum over the F steps of an action block.
    """

    pixels: NDArray[np.uint8]  # (B, L, h, h, 3)
    env_action: NDArray[np.float32]  # (B, L - 1, F, A)
    state: NDArray[np.float64] | None  # (B, L, k)
    goal: NDArray[np.uint8] | None = None  # (B, h, h, 3)
    goal_steps: NDArray[np.int64] | None = None  # (B,)
    reward: NDArray[np.float32] | None = None  # (B, L - 1)


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
        counts = np.maximum(lengths - self._span, 0)
        if counts.sum() == 0:
            raise DatasetError(
                f"a clip of {clip_length} frames at frameskip {frameskip} needs an episode of {self._span + 1} frames; "
                f"the longest of these {len(counts)} has {lengths.max(initial=0)}: lower clip_length or frameskip"
            )
        starts = [np.arange(first, first + count) for first, count in zip(offsets, counts, strict=True) if count > 0]
        self._starts: NDArray[np.int64] = np.concatenate(starts)
        self._last: NDArray[np.int64] = np.repeat(offsets + lengths - 1, counts)  # last row of the clip's episode

    def __len__(self) -> int:
        return len(self._starts)

    def sample(
        self, num: int, rng: np.random.Generator, goals: bool = False, other_share: float = OTHER_SHARE
    ) -> Clips:
        """`num` clips, each uniform over all of them.

        With `goals` each has a hindsight goal, uniform over the frames of its trajectory that follow its first frame.
        A share `other_share` of the goals follow the first frame of another clip, of another trajectory. The clips are
        the same with goals and without.
        """
        if not 0 <= other_share <= 1:
            raise UserError(f"other_share={other_share} must be from 0 to 1")
        indices = rng.integers(len(self), size=num)
        clips = self.at(indices)
        if not goals:
            return clips
        (goal_rng,) = rng.spawn(1)  # leaves the stream of the clips as it is
        rows, steps = self._goals(indices, goal_rng, other_share)
        return clips._replace(goal=self.trajectories.frames(rows), goal_steps=steps)

    def at(self, indices: NDArray[np.int64]) -> Clips:
        """The clips with these numbers, each from 0 to ``len(self) - 1``."""
        rows, action = self.rows(indices)
        state, reward = self.trajectories.state, self.trajectories.reward
        return Clips(
            self.trajectories.frames(rows),
            action,
            None if state is None else state[rows],
            reward=None if reward is None else self._blocks(reward, indices).sum(axis=-1),
        )

    def episodes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the episodes that these clips are from, ``(num,)``."""
        offsets = self.trajectories.offsets
        order = np.argsort(offsets)
        episodes: NDArray[np.int64] = order[np.searchsorted(offsets[order], self._starts[indices], side="right") - 1]
        return episodes

    @property
    def num_frames(self) -> int:
        """Different frames in all clips."""
        return len(np.unique(self._starts[:, None] + np.arange(0, self._span + 1, self.frameskip)))

    def rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of the frames of these clips in the file, ``(num, L)``, and the actions ``(num, L - 1, F, A)``."""
        frames = self._starts[indices][:, None] + np.arange(0, self._span + 1, self.frameskip)
        return frames, self._blocks(self.trajectories.action, indices)

    def _blocks(self, column: NDArray[np.float32], indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of `column` at all steps of these clips, ``(num, L - 1, F, ...)``."""
        steps = self._starts[indices][:, None] + np.arange(self._span)
        return column[steps].reshape(len(steps), self.clip_length - 1, self.frameskip, *column.shape[1:])

    def _goals(
        self, indices: NDArray[np.int64], rng: np.random.Generator, other_share: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the goals of these clips in the file, and the steps to them, each ``(num,)``."""
        others = rng.integers(len(self), size=len(indices))
        unrelated = (rng.random(len(indices)) < other_share) & (self._last[others] != self._last[indices])
        sources = np.where(unrelated, others, indices)
        first, last = self._starts[sources], self._last[sources]
        rows = rng.integers(np.minimum(first + 1, last), last + 1)  # a clip of one frame may be the last of its episode
        return rows, np.where(unrelated, UNRELATED, rows - first)


@dataclass(frozen=True)
class Mixture:
    """Clips of several files, each of which fills the same share of every batch, however long it is."""

    windows: Sequence[Windows]

    def sample(
        self, num: int, rng: np.random.Generator, goals: bool = False, other_share: float = OTHER_SHARE
    ) -> Clips:
        """`num` clips in random order; of one file, each uniform over all of them. Goals are as in `Windows.sample`.

        A column that one of the files lacks, or has with rows of another shape, is None.
        """
        if len(self.windows) == 1:
            return self.windows[0].sample(num, rng, goals, other_share)
        pairs = zip(self.windows, shares(num, len(self.windows)), strict=True)
        parts = [windows.sample(share, rng, goals, other_share) for windows, share in pairs]
        order = rng.permutation(num)  # a part of a batch has clips of all files
        pixels, env_action, *others = (_joined(columns, order) for columns in zip(*parts, strict=True))
        return Clips(pixels, env_action, *others)

    @property
    def num_frames(self) -> int:
        """Different frames in all clips."""
        return sum(windows.num_frames for windows in self.windows)

    def episodes(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Numbers ``(num,)`` of the episodes of the clips that `sample` draws from an equal `rng`.

        Those of each file come after those of the file before.
        """
        first, numbers = 0, []
        for windows, share in zip(self.windows, shares(num, len(self.windows)), strict=True):
            numbers.append(first + windows.episodes(rng.integers(len(windows), size=share)))
            first += windows.trajectories.num_episodes
        return numbers[0] if len(numbers) == 1 else np.concatenate(numbers)[rng.permutation(num)]


def random_rows(
    file: Trajectories, episodes: NDArray[np.int64], num: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of `num` frames of some `episodes` of a file, in its order."""
    chosen = episodes[rng.integers(len(episodes), size=num)]
    rows: NDArray[np.int64] = file.offsets[chosen] + rng.integers(file.lengths[chosen])
    return np.sort(rows)


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _joined(columns: Sequence[NDArray[Any] | None], order: NDArray[np.int64]) -> Any:
    """Rows of all `columns` in `order`, None where one is missing or has other rows, such as states of another size."""
    present = [column for column in columns if column is not None]
    alike = len(present) == len(columns) and len({column.shape[1:] for column in present}) == 1
    return np.concatenate(present)[order] if alike else None
