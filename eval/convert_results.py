"""Conversion of a ``results.json`` of version 0.1 to the format of today, in place.

::

    python -m lwm_agent.eval.convert_results results/*.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from .episode import Episode
from .json_file import parse_json, read_text
from .results import Summary
from .results_file import parse_results, to_json


def convert(path: str | Path) -> bool:
    """Rewrites the file, with its run, summary and floors as they are; False if it has the format of today already.

    Early files have no `overshoot_ms`: it becomes 0.

    Raises:
        UserError: the file is no ``results.json``.
    """
    text = read_text(path, "a results.json")
    try:
        contents = parse_json(text)
        if "format" in contents:
            parse_results(path)
            return False
        episodes = [Episode(**{**row, "plan_ms": tuple(row["plan_ms"])}) for row in contents["episodes"]]
        floors = {name: _summary(floor) for name, floor in contents["floors"].items()}
        converted = to_json(contents["run"], _summary(contents["summary"]), floors, episodes)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a results.json, or is damaged: {error!r}") from error
    write_text(path, converted)
    return True


def _summary(row: dict[str, Any]) -> Summary:
    return Summary(**{"overshoot_ms": 0.0, **row, "ci95": tuple(row["ci95"])})


def main(paths: Sequence[str]) -> None:
    """Converts the files."""
    for path in paths:
        convert(path)
        parse_results(path)


if __name__ == "__main__":
    main(sys.argv[1:])
