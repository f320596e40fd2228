"""Finished episodes on disk, one a line: an interrupted evaluation is resumed after the last of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import file_errors, write_text
from .episode import Episode
from .json_file import checked_count, checked_flag, checked_list, checked_number, checked_object, parse_json, read_text

MAX_COUNT = 10**7
"""Largest index, number of environment steps or number of decisions in a row."""


class EpisodeLog:
    """File of episodes, whose first line is the fingerprint of their evaluation.

    Its `append` is an `on_episode` of `evaluate`; the tasks that are not in `episodes` are the `indices` left to play.

    Args:
        path: the file, such as ``episodes.jsonl``.
        fingerprint: settings from which the outcome of an episode follows, in JSON types; see `provenance.fingerprint`.
        num_tasks: number of tasks of the evaluation; None if it is unknown.
        overwrite: start anew where the file already exists.

    Attributes:
        episodes: episodes already finished, by task index.

    Raises:
        UserError: the file is damaged, or belongs to another evaluation.
    """

    def __init__(
        self,
        path: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        num_tasks: int | None = None,
        overwrite: bool = False,
    ) -> None:
        self._path = Path(path)
        header = json.dumps(fingerprint, sort_keys=True)
        text = read_text(path, "a log of episodes") if self._path.exists() and not overwrite else ""
        # A line without an end was torn by an interruption: it is dropped, and its episode is played again.
        lines = text.split("\n")[:-1] or [header]
        try:
            stored, *rows = [parse_json(line) for line in lines]
        except ValueError as error:
            raise _damaged(path, error) from error
        if stored != json.loads(header):
            raise UserError(
                f"{path} belongs to another evaluation ({_difference(stored, json.loads(header))}): "
                "name another folder, or pass --overwrite"
            )
        try:
            episodes = [_parse_episode(row, f"line {line}", num_tasks) for line, row in enumerate(rows, start=2)]
            self.episodes = {episode.index: episode for episode in episodes}
            if len(self.episodes) < len(rows):
                raise ValueError("an index occurs twice")
            if len({tuple(episode.final_errors) for episode in episodes}) > 1:
                raise ValueError("its episodes have different distances")
        except ValueError as error:
            raise _damaged(path, error) from error
        write_text(self._path, "\n".join(lines) + "\n")

    def append(self, episode: Episode) -> None:
        """Adds a finished episode."""
        self.episodes[episode.index] = episode
        with file_errors(self._path, "written"), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(episode)) + "\n")


def _damaged(path: str | Path, error: ValueError) -> UserError:
    return UserError(f"{path} is damaged: {error}; name another folder, or pass --overwrite")


def _parse_episode(value: Any, line: str, num_tasks: int | None) -> Episode:
    """Episode of a line; raises ValueError if it has other fields, other types, or contradicts itself."""
    row = checked_object(value, line)
    names = [field.name for field in fields(Episode)]
    if sorted(row) != sorted(names):
        raise ValueError(f"{line} has the keys {', '.join(row)}, expected {', '.join(names)}")
    for name in ("success", "solved_at_start"):
        checked_flag(row[name], f"{line}: {name}")
    for name in ("rollouts", "flops", "seconds", "overshoot_ms"):
        checked_number(row[name], f"{line}: {name}")
    checked_count(row["num_decisions"], f"{line}: num_decisions", high=MAX_COUNT)
    checked_count(row["index"], f"{line}: index", high=(MAX_COUNT if num_tasks is None else num_tasks) - 1)
    plan_ms = tuple(checked_number(ms, f"{line}: plan_ms") for ms in checked_list(row["plan_ms"], f"{line}: plan_ms"))
    if len(plan_ms) != row["num_decisions"]:
        raise ValueError(f"{line}: plan_ms has {len(plan_ms)} entries, but num_decisions={row['num_decisions']}")
    _check_steps(row, line)
    _check_distances(row, line)
    return Episode(**{**row, "plan_ms": plan_ms})


def _check_steps(row: Mapping[str, Any], line: str) -> None:
    """Refuses a number of steps that contradicts the flags of success."""
    steps = row["steps_to_success"]
    if steps is not None:
        checked_count(steps, f"{line}: steps_to_success", high=MAX_COUNT)
    if row["success"] == (steps is None):
        raise ValueError(f"{line}: success={row['success']} contradicts steps_to_success={steps}")
    if row["solved_at_start"] != (steps == 0):
        raise ValueError(f"{line}: solved_at_start={row['solved_at_start']} contradicts steps_to_success={steps}")


def _check_distances(row: Mapping[str, Any], line: str) -> None:
    """Refuses smallest distances that are not those of the last distances, or are larger."""
    final, smallest = (checked_object(row[name], f"{line}: {name}") for name in ("final_errors", "min_errors"))
    if list(final) != list(smallest):
        raise ValueError(f"{line}: final_errors and min_errors have different keys")
    for name, error in final.items():
        checked_number(error, f"{line}: final_errors.{name}")
        checked_number(smallest[name], f"{line}: min_errors.{name}", high=error)


def _difference(stored: Any, wanted: Any, name: str = "") -> str:
    """Differing entries, such as ``planner.samples: 64 there, 128 now``."""
    if not (isinstance(stored, dict) and isinstance(wanted, dict)):
        return f"{name}: {stored!r:.100} there, {wanted!r:.100} now"
    keys = [key for key in sorted(stored.keys() | wanted.keys()) if stored.get(key) != wanted.get(key)]
    return "; ".join(_difference(stored.get(key), wanted.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
