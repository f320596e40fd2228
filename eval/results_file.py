"""File ``results.json``, format 2: run, summary and floors over many lines, then one short line an episode.

::

    {
     "format": 2,
     "run": {...},                   provenance.run_info
     "summary": {...},               fields of results.Summary
     "floors": {"random": {...}},    the same of policies without a model, on the same tasks
     "columns": ["index", "success", "solved_at_start", "steps_to_success", "num_decisions", "plan_ms_p50",
                 "plan_ms_p95", "rollouts", "flops", "seconds", "overshoot_ms", "final_x_px", "min_x_px", ...],
     "episodes": [
      [0, 1, 0, 45, 9, 24.0, 26.1, 209, 3.85e+09, 0.216, 0, 10.4, 10.4],
      ...

The summary is exact. The numbers of an episode are rounded to three significant digits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import write_text
from .accounting import parse_account
from .episode import Episode
from .json_file import checked_count, checked_number, checked_object, checked_text, parse_json, read_text
from .results import Summary, summarize, wilson

FORMAT = 2
COLUMNS = (
    "index",
    "success",
    "solved_at_start",
    "steps_to_success",
    "num_decisions",
    "plan_ms_p50",
    "plan_ms_p95",
    "rollouts",
    "flops",
    "seconds",
    "overshoot_ms",
)
"""Columns of every environment; the distances to the goal follow as ``final_NAME`` and ``min_NAME``."""

MAX_COUNT = 10**7
"""Largest number of episodes, environment steps or decisions in a file."""

_COUNTS = ("index", "steps_to_success", "num_decisions")
_OPTIONAL = ("steps_to_success", "plan_ms_p50", "plan_ms_p95")


@dataclass(frozen=True)
class Results:
    """Contents of a ``results.json``, checked.

    Attributes:
        run: provenance.run_info.
        summary: of the policy that was evaluated.
        floors: of policies without a model on the same tasks.
        solved: whether each task was solved, by its index.
    """

    run: dict[str, Any]
    summary: Summary
    floors: dict[str, Summary]
    solved: dict[int, bool]


def save_results(
    directory: str | Path,
    run: Mapping[str, Any],
    episodes: Sequence[Episode],
    floors: Mapping[str, Sequence[Episode]] | None = None,
) -> Summary:
    """Writes ``results.json`` (run, summary, floors, episodes) and ``results.csv`` (one row an episode)."""
    summary = summarize(episodes)
    rows = {name: summarize(floor) for name, floor in (floors or {}).items()}
    write_text(Path(directory) / "results.json", to_json(run, summary, rows, episodes))
    write_text(Path(directory) / "results.csv", _to_csv(episodes))
    return summary


def to_json(
    run: Mapping[str, Any], summary: Summary, floors: Mapping[str, Summary], episodes: Sequence[Episode]
) -> str:
    """Text of a ``results.json``."""
    names = list(episodes[0].final_errors)
    columns = [*COLUMNS, *(f"final_{name}" for name in names), *(f"min_{name}" for name in names)]
    head = {
        "format": FORMAT,
        "run": run,
        "summary": asdict(summary),
        "floors": {name: asdict(floor) for name, floor in floors.items()},
    }
    lines = ",\n".join("  " + json.dumps(_row(episode, names), allow_nan=False) for episode in episodes)
    text = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
    return f'{text},\n "columns": {json.dumps(columns)},\n "episodes": [\n{lines}\n ]\n}}\n'


def _row(episode: Episode, names: Sequence[str]) -> list[float | int | None]:
    p50, p95 = np.percentile(episode.plan_ms, [50, 95]).tolist() if episode.plan_ms else (None, None)
    return [
        episode.index,
        int(episode.success),
        int(episode.solved_at_start),
        episode.steps_to_success,
        episode.num_decisions,
        *map(_rounded, (p50, p95, episode.rollouts, episode.flops, episode.seconds, episode.overshoot_ms)),
        *(_rounded(episode.final_errors[name]) for name in names),
        *(_rounded(episode.min_errors[name]) for name in names),
    ]


def _rounded(value: float | None) -> float | int | None:
    """Three significant digits, as an integer where nothing is lost by it and it is shorter."""
    if value is None:
        return None
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded


def parse_results(path: str | Path) -> Results:
    """Contents of a ``results.json``.

    Raises:
        UserError: the file is none, has another format, or contradicts itself.
    """
    text = read_text(path, "a results.json")
    try:
        contents = checked_object(parse_json(text), "the file")
        if "format" not in contents and "episodes" in contents:
            raise ValueError(f"it has the format of version 0.1: `python -m lwm_agent.eval.convert_results {path}`")
        if contents.get("format") != FORMAT:
            raise ValueError(f"its format is {contents.get('format')!r}, expected {FORMAT}")
        if list(contents) != ["format", "run", "summary", "floors", "columns", "episodes"]:
            raise ValueError(f"it has the keys {', '.join(contents)}")
        run = _checked_run(contents["run"])
        summary = _summary(contents["summary"], "summary")
        floors = {
            name: _summary(floor, f"floors.{name}")
            for name, floor in checked_object(contents["floors"], "floors").items()
        }
        rows = _rows(contents["columns"], contents["episodes"])
        _check_agreement(summary, rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not a results.json, or is damaged: {error}") from error
    return Results(run, summary, floors, {int(row["index"]): bool(row["success"]) for row in rows})


def _checked_run(value: Any) -> dict[str, Any]:
    run = checked_object(value, "run")
    shlex.split(checked_text(run.get("command"), "run.command"))  # ValueError, if a quotation is not closed
    tasks, planner = checked_object(run.get("tasks"), "run.tasks"), checked_object(run.get("planner"), "run.planner")
    for name in ("env_id", "protocol", "split", "sha256"):
        checked_text(tasks.get(name), f"run.tasks.{name}")
    checked_count(tasks.get("offset_env_steps"), "run.tasks.offset_env_steps", high=MAX_COUNT)
    checked_text(planner.get("name"), "run.planner.name")
    for name, limit in checked_object(planner.get("budget", {}), "run.planner.budget").items():
        if limit is not None:
            checked_number(limit, f"run.planner.budget.{name}")
    if "agent" in planner:
        agent = checked_object(planner["agent"], "run.planner.agent")
        checked_text(agent.get("cost"), "run.planner.agent.cost")
        if "proposal" not in agent:
            raise ValueError("run.planner.agent has no proposal")
        if agent["proposal"] is not None:
            checked_text(agent["proposal"], "run.planner.agent.proposal")
    shifts = run.get("shifts", [])  # earlier files have none
    if not isinstance(shifts, list):
        raise ValueError("run.shifts is not a list")
    for shift in shifts:
        checked_text(shift, "run.shifts")
    if run.get("model") is not None:  # the same
        parse_account(run["model"], "run.model")
    return run


def _summary(value: Any, name: str) -> Summary:
    row = checked_object(value, name)
    expected = [field.name for field in fields(Summary)]
    if sorted(row) != sorted(expected):
        raise ValueError(f"{name} has the keys {', '.join(row)}, expected {', '.join(expected)}")
    for key in ("success", "solved_at_start"):
        checked_number(row[key], f"{name}.{key}", high=1)
    n = checked_count(row["n"], f"{name}.n", high=MAX_COUNT)
    for key in ("rollouts", "flops", "overshoot_ms"):
        checked_number(row[key], f"{name}.{key}")
    for key in ("steps_to_success", "plan_ms_p50", "plan_ms_p95"):
        if row[key] is not None:
            checked_number(row[key], f"{name}.{key}")
    if (row["plan_ms_p50"] is None) != (row["plan_ms_p95"] is None) or (row["plan_ms_p50"] or 0) > (
        row["plan_ms_p95"] or 0
    ):
        raise ValueError(f"{name}.plan_ms_p50 and plan_ms_p95 contradict each other")
    errors = checked_object(row["final_errors"], f"{name}.final_errors")
    for key, error in errors.items():
        checked_number(error, f"{name}.final_errors.{key}")
    ends = _checked_interval(row["ci95"], row["success"], n, name)
    return Summary(**{**row, "ci95": (ends[0], ends[1])})


def _checked_interval(value: Any, success: float, n: int, name: str) -> list[float]:
    successes = round(success * n)
    if n == 0 or not math.isclose(successes / n, success, abs_tol=1e-9):
        raise ValueError(f"{name}.success={success} is not a share of n={n}")
    interval = wilson(successes, n)
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name}.ci95 is not a pair")
    ends = [checked_number(end, f"{name}.ci95", high=1) for end in value]
    if not all(math.isclose(end, other, abs_tol=1e-9) for end, other in zip(ends, interval, strict=True)):
        raise ValueError(f"{name}.ci95={ends} is not the interval of {successes} successes of {n}")
    return ends


def _rows(columns: Any, episodes: Any) -> list[dict[str, Any]]:
    if not isinstance(columns, list) or tuple(columns[: len(COLUMNS)]) != COLUMNS:
        raise ValueError(f"its columns do not begin with {', '.join(COLUMNS)}")
    for name in columns[len(COLUMNS) :]:
        if not isinstance(name, str) or not name.startswith(("final_", "min_")):
            raise ValueError(f"it has an unknown column {name!r:.60}")
    if len(set(columns)) < len(columns):
        raise ValueError("a column occurs twice")
    if not isinstance(episodes, list) or not episodes:
        raise ValueError("it has no episodes")
    rows = []
    for line, values in enumerate(episodes):
        if not isinstance(values, list) or len(values) != len(columns):
            raise ValueError(f"episode {line} has not {len(columns)} values")
        rows.append(_checked_row(dict(zip(columns, values, strict=True)), f"episode {line}: "))
    if len({row["index"] for row in rows}) < len(rows):
        raise ValueError("an index occurs twice among its episodes")
    return rows


def _checked_row(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    for name, value in row.items():
        if name in ("success", "solved_at_start"):
            checked_count(value, prefix + name, high=1)
        elif name in _COUNTS and (value is not None or name not in _OPTIONAL):
            checked_count(value, prefix + name, high=MAX_COUNT)
        elif value is not None or name not in _OPTIONAL:
            checked_number(value, prefix + name)
    if (row["steps_to_success"] is None) == bool(row["success"]):
        raise ValueError(f"{prefix}success={row['success']} contradicts steps_to_success={row['steps_to_success']}")
    if bool(row["solved_at_start"]) != (row["steps_to_success"] == 0):
        raise ValueError(f"{prefix}solved_at_start contradicts steps_to_success={row['steps_to_success']}")
    if (row["plan_ms_p50"] is None) != (row["num_decisions"] == 0):
        raise ValueError(f"{prefix}plan_ms_p50 contradicts num_decisions={row['num_decisions']}")
    return row


def _check_agreement(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compares a summary with the episodes: exactly, or to rounding."""
    n, decisions = len(rows), sum(row["num_decisions"] for row in rows)
    steps = [row["steps_to_success"] for row in rows if row["success"]]
    expected = {
        "n": (n, summary.n),
        "success": (sum(row["success"] for row in rows) / n, summary.success),
        "solved_at_start": (sum(row["solved_at_start"] for row in rows) / n, summary.solved_at_start),
        "steps_to_success": (float(np.median(steps)) if steps else None, summary.steps_to_success),
        "overshoot_ms": (max(row["overshoot_ms"] for row in rows), summary.overshoot_ms),
    }
    for name in ("rollouts", "flops"):
        mean = sum(row[name] * row["num_decisions"] for row in rows) / max(1, decisions)
        expected[name] = (mean, getattr(summary, name))
    for name, error in summary.final_errors.items():
        expected[f"final_errors.{name}"] = (_mean(rows, f"final_{name}"), error)
    for name, (value, written) in expected.items():
        if (value is None) != (written is None) or not math.isclose(
            value or 0, written or 0, rel_tol=0.01, abs_tol=1e-9
        ):
            raise ValueError(f"summary.{name}={written} but its episodes give {value}")
    if (summary.plan_ms_p50 is None) != (decisions == 0):
        raise ValueError(f"summary.plan_ms_p50={summary.plan_ms_p50} but its episodes have {decisions} decisions")


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    if column not in rows[0]:
        raise ValueError(f"there is no column {column}")
    return float(np.mean([row[column] for row in rows]))


def _to_csv(episodes: Sequence[Episode]) -> str:
    text = io.StringIO()
    rows = [_csv_row(episode) for episode in episodes]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(episode: Episode) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(episode).items():
        if isinstance(value, dict):
            row |= {f"{name.removesuffix('_errors')}_{key}": entry for key, entry in value.items()}
        elif name == "plan_ms":
            row["plan_ms_p50"] = float(np.median(value)) if value else None
        else:
            row[name] = int(value) if isinstance(value, bool) else value
    return row
