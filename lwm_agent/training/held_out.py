"""Held-out episodes of a data file: the same for a world model and for all that is trained on its latents.

An encoder knows the episodes that it was trained on. Validated on them, what is trained on its latents looks better
than it is: so each later training holds out the episodes that the encoder's training has held out of the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.trajectories import Trajectories, split
from .config import LatentsConfig


@dataclass(frozen=True)
class DataFile:
    """Record of a file that was trained on.

    Attributes:
        path: where it was.
        fingerprint: `Trajectories.fingerprint`.
        split_seed: seed of the choice of held-out episodes.
        validation_share: share of the episodes held out.
    """

    path: str
    fingerprint: str
    split_seed: int
    validation_share: float

    def split(self, file: Trajectories) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the training and of the validation episodes."""
        return split(file.num_episodes, self.validation_share, self.split_seed)


def data_files(files: Sequence[Trajectories], seed: int, validation: float) -> list[dict[str, Any]]:
    """Records of the `files` of a training of a world model, for its checkpoint."""
    return [asdict(DataFile(str(file.path), file.fingerprint, seed, validation)) for file in files]


def same_files(records: Any, others: Sequence[Mapping[str, Any]]) -> bool:
    """True if two lists of records are of the same data with the same splits, wherever the files are."""
    if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
        return False
    return [{**record, "path": ""} for record in records] == [{**record, "path": ""} for record in others]


def follow_splits(
    training: Mapping[str, Any], files: Sequence[Trajectories], config: LatentsConfig, earlier: Any = None
) -> list[DataFile]:
    """Records of the `files` of a training of a part, split as in the trainings before it.

    Args:
        training: record of the world model's training; a file that it was trained on is split as there.
        files: files of the training of the part.
        config: its settings: seed and validation share for other files.
        earlier: record of the part's own training before, if it is continued; its files are split as there.
    """
    known = [*_records(training), *_records(earlier)]
    return [_record(file, known, config) for file in files]


def unseen_episodes(training: Mapping[str, Any], file: Trajectories) -> NDArray[np.int64]:
    """Numbers of the episodes of `file` that the world model of this `training` record has not seen.

    They are those that its training has held out, or all if it never saw the file.
    """
    known = _known(file, [*_records(training)])
    return np.arange(file.num_episodes) if known is None else known.split(file)[1]


def _record(file: Trajectories, known: Sequence[DataFile], config: LatentsConfig) -> DataFile:
    return _known(file, known) or DataFile(str(file.path), file.fingerprint, config.seed, config.validation)


def _known(file: Trajectories, records: Sequence[DataFile]) -> DataFile | None:
    """The record of `file` itself among `records`, wherever it was."""
    for record in records:
        same_path = os.path.abspath(record.path) == os.path.abspath(file.path)
        if record.fingerprint == file.fingerprint or (not record.fingerprint and same_path):
            return DataFile(str(file.path), file.fingerprint, record.split_seed, record.validation_share)
    return None


def _records(training: Any) -> Iterator[DataFile]:
    """Records of the files of a training and of those before it; entries of unexpected types are passed over."""
    if not isinstance(training, Mapping):
        return
    records = training.get("data_files")
    if isinstance(records, list):
        for record in records:
            if isinstance(record, Mapping) and record.keys() == DataFile.__dataclass_fields__.keys():
                yield DataFile(**record)
    else:  # of version 0.1: paths alone
        data, changed = training.get("data", ()), training.get("set")
        share = changed.get("validation", 0.05) if isinstance(changed, Mapping) else 0.05
        seed = training.get("seed")
        if isinstance(seed, int) and isinstance(share, float):
            paths = data if isinstance(data, list | tuple) else [data]
            yield from (DataFile(str(path), "", seed, share) for path in paths)
    yield from _records(training.get("before"))
