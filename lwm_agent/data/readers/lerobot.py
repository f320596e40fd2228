"""LeRobot data sets, versions 2 and 3: a folder, or an id of the Hugging Face hub.

``meta/info.json`` has the rate, the features and the patterns of the paths. Numbers are in Parquet files, an episode
each (2) or many in one (3); pictures in videos of the same division, or in the Parquet files as PNG.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import MachineError
from ...files import advice, read_text
from ...imports import pip_install
from ..schema import DatasetError
from .recordings import Demonstration, Frame, Recordings, choose_camera

INFO = Path("meta/info.json")
STATE = "observation.state"


@dataclass(frozen=True)
class Span:
    """Place of an episode: its files' numbers, its rows of the table, and its first frame of the video."""

    numbers: Mapping[str, int]
    video_numbers: Mapping[str, int]
    length: int
    first_frame: int


class LeRobot:
    """Implements `Reader`."""

    name = "LeRobot (meta/info.json, Parquet, videos)"

    def matches(self, source: Path) -> bool:
        """Implements `Reader`."""
        return (source / INFO).is_file()

    def open(self, source: Path, camera: str | None) -> Recordings:
        """Implements `Reader`."""
        info = _info(source)
        features: dict[str, Any] = info["features"]
        cameras = [name for name, entry in features.items() if entry.get("dtype") in ("video", "image")]
        chosen = choose_camera(source, cameras, camera)
        if "action" not in features:
            raise DatasetError(f"{source} has no actions: its features are {', '.join(features)}")
        known = {"timestamp", "frame_index", "episode_index", "index", "task_index", "action", STATE, *cameras}
        others = sorted(set(features) - known)
        spans = _spans(source, info, chosen)
        return Recordings(
            num_episodes=len(spans),
            cameras=cameras,
            camera=chosen,
            fps=float(info["fps"]),
            demonstrations=lambda: _demonstrations(source, info, chosen, spans),
            left_out=[f"columns {', '.join(others)}"] if others else [],
        )


def _info(source: Path) -> dict[str, Any]:
    path = source / INFO
    try:
        info = json.loads(read_text(path))
        version = str(info["codebase_version"]).lstrip("v").split(".")[0]
        if version not in ("2", "3"):
            raise DatasetError(f"{path}: version {info['codebase_version']} is not known: convert it to v2.1 or v3.0")
        assert isinstance(info["features"], dict)
        assert info["data_path"]
        assert float(info["fps"]) > 0
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is damaged ({error!r}): download it again") from error
    return dict(info)


def _spans(source: Path, info: Mapping[str, Any], camera: str) -> list[Span]:
    """The episodes, in their order."""
    if (source / "meta/episodes.jsonl").is_file():
        size = int(info.get("chunks_size", 1000))
        rows = [json.loads(line) for line in read_text(source / "meta/episodes.jsonl").splitlines() if line.strip()]
        numbers = [
            {"episode_index": row["episode_index"], "episode_chunk": row["episode_index"] // size} for row in rows
        ]
        return [Span(part, part, row["length"], 0) for row, part in zip(rows, numbers, strict=True)]
    rows = [row for path in sorted(source.glob("meta/episodes/*/*.parquet")) for row in _table(path).to_pylist()]
    if not rows:
        raise DatasetError(f"{source} has no meta/episodes.jsonl and no meta/episodes/*/*.parquet: download it again")
    spans = []
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        start = row.get(f"videos/{camera}/from_timestamp", 0.0)
        spans.append(
            Span(
                {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]},
                {
                    name: row.get(f"videos/{camera}/{name}", row[f"data/{name}"])
                    for name in ("chunk_index", "file_index")
                },
                row["length"],
                round(start * float(info["fps"])),
            )
        )
    return spans


def _demonstrations(source: Path, info: Mapping[str, Any], camera: str, spans: list[Span]) -> Iterator[Demonstration]:
    """Reads each file once: the table that is open has the next episode, and a video goes on where it was."""
    videos = _Videos()
    opened, table, row = "", None, 0
    for span in spans:
        name = str(info["data_path"]).format(**span.numbers)
        if name != opened:
            opened, table, row = name, _table(source / name), 0
        part = table.slice(row, span.length)  # type: ignore[union-attr]
        row += span.length
        if part.num_rows < span.length:
            raise DatasetError(f"{source / name} ends within an episode: download it again")
        state = _numbers(part, STATE) if STATE in part.column_names else None
        if info["features"][camera]["dtype"] == "image":
            frames: Iterator[Frame] = (_picture(source, cell) for cell in part.column(camera).to_pylist())
        else:
            video = source / str(info["video_path"]).format(video_key=camera, **span.video_numbers)
            frames = videos.frames(video, span.first_frame, span.length)
        yield Demonstration(frames, _numbers(part, "action"), None if state is None else state.astype(np.float64))


class _Videos:
    """Frames of videos; a video is decoded from its beginning, and goes on for the next episode in it."""

    def __init__(self) -> None:
        self._path, self._next = Path(), 0
        self._frames: Iterator[Frame] = iter(())

    def frames(self, path: Path, first: int, count: int) -> Iterator[Frame]:
        """`count` frames from number `first` on."""
        if path != self._path or first < self._next:
            if not path.is_file():
                raise DatasetError(f"{path} is missing: download the data set again, with its videos")
            self._path, self._next = path, 0
            self._frames = iter(iio.imiter(path, plugin="FFMPEG"))
        skipped, self._next = first - self._next, first
        try:
            for frame in islice(self._frames, skipped, skipped + count):
                self._next += 1
                yield frame
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetError(f"{path} cannot be decoded ({advice(error)}): download it again") from error
        if self._next < first + count:
            raise DatasetError(f"{path} has fewer frames than meta/ says: download it again")


def _picture(source: Path, cell: Mapping[str, Any]) -> Frame:
    """A picture in a table: its bytes, or the path of its file."""
    data = cell["bytes"] if cell.get("bytes") else (source / str(cell["path"])).read_bytes()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _table(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MachineError(f"{path} is a Parquet file: {pip_install('lerobot')}") from error
    try:
        return parquet.read_table(path)
    except (OSError, ValueError) as error:  # of Arrow too, whose errors derive from these
        raise DatasetError(f"{path} cannot be read ({advice(error)}): download it again") from error


def _numbers(table: Any, name: str) -> NDArray[np.float32]:
    """A column of lists of numbers, ``(n, k)``."""
    rows = np.array(table.column(name).to_pylist(), np.float32)
    return rows[:, None] if rows.ndim == 1 else rows
