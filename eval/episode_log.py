"""Finished episodes on disk, one a line, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from .episode import Episode


class EpisodeLog:
    """Appends episodes to a file whose first line says what they are episodes of.

    Hand `append` to `evaluate` as `on_episode`, and the tasks that are not in `episodes` as its `indices`.

    Args:
        path: the file, such as ``episodes.jsonl``.
        fingerprint: what the outcome of an episode follows from, in JSON types; see `provenance.fingerprint`.
        overwrite: start anew where the file already exists.

    Attributes:
        episodes: those already finished, by task index.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self._path = Path(path)
        header = json.dumps(fingerprint, sort_keys=True)
        text = self._path.read_text(encoding="utf-8") if self._path.exists() and not overwrite else ""
        # A line that an interruption tore has no end: it is dropped, and its episode is run again.
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")] or [header + "\n"]
        try:
            found, *rows = [json.loads(line) for line in lines]
            self.episodes = {row["index"]: Episode(**row | {"plan_ms": tuple(row["plan_ms"])}) for row in rows}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: {error!r}; choose another --output-dir or --overwrite") from error
        if found != json.loads(header):
            raise UserError(
                f"{path} belongs to another evaluation ({_difference(found, json.loads(header))}): "
                "choose another --output-dir or --overwrite"
            )
        write_text(self._path, "".join(lines))

    def append(self, episode: Episode) -> None:
        """Adds a finished episode."""
        self.episodes[episode.index] = episode
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(episode)) + "\n")


def _difference(found: Any, wanted: Any, name: str = "") -> str:
    """What differs, such as ``planner.samples: 64 there, 128 now``."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return f"{name}: {found!r} there, {wanted!r} now"
    keys = [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]
    return "; ".join(_difference(found.get(key), wanted.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
