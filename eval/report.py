"""Several results as one Markdown table, such as the one in the README."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from ..protocols import DEFAULT_COST
from .results import reading

_HEADER = (
    "| env | protocol | offset | planner | success % | 95 % CI | n | random % | do nothing % | steps | "
    "plan ms p50 / p95 | rollouts | GFLOP |"
)

FLOORS = {"random": "random", "none": "do nothing"}
"""What tables call them."""


def markdown_table(paths: Iterable[str | Path], folder: str | Path = ".") -> str:
    """One row for each ``results.json``, in the order of `paths`; the floors are those on the same tasks.

    Links lead from `folder` to the files.

    Raises:
        ValueError: a file is not a results.json.
    """
    rule = "|" + " --- |" * (_HEADER.count("|") - 1)
    return "\n".join([_HEADER, rule, *(_row(Path(path), Path(folder)) for path in paths)])


def compact_table(paths: Iterable[str | Path], folder: str | Path = ".") -> str:
    """One row for each planner, one column for each set of tasks.

    A cell has the success rate in percent, its 95 % interval, and GFLOP a decision. The floors come last, from any of
    the results on the same tasks. Links lead from `folder` to the files.

    Raises:
        ValueError: a file is not a results.json, or two are of the same planner on the same tasks.
    """
    cells: dict[tuple[str, str], str] = {}
    below: dict[tuple[str, str], str] = {}
    for path in map(Path, paths):
        with reading(path) as contents:
            run, summary, floors = contents["run"], contents["summary"], contents["floors"]
            planner, tasks = f"`{run['planner']['name']}`", " ".join(map(str, _tasks(run)))
            if (planner, tasks) in cells:
                raise UserError(f"{path} is another result of {planner} on {tasks}: a compact table has room for one")
            success = f"[{_percent(summary)}]({_link(path, Path(folder))})"
            cells[planner, tasks] = f"{success} ({_interval(summary)}), {_gflop(summary)}"
            below |= {(FLOORS[name], tasks): _percent(floor) for name, floor in floors.items()}
    columns = list(dict.fromkeys(tasks for _, tasks in cells))
    names = [*dict.fromkeys(name for name, _ in cells), *FLOORS.values()]
    cells |= below
    rows = [[name, *(cells.get((name, tasks), "-") for tasks in columns)] for name in names]
    return "\n".join(map(_line, [["", *columns], ["---"] * (len(columns) + 1), *rows]))


def write_table(
    paths: Iterable[str | Path],
    document: str | Path,
    mark: str = "results",
    make: Callable[[Iterable[str | Path], Path], str] = markdown_table,
) -> None:
    """Replaces what a Markdown `document` has between ``<!-- mark -->`` and ``<!-- /mark -->`` by the table.

    `make` is one of this module's tables.

    Raises:
        ValueError: as the table, or the document has no such lines.
    """
    document = Path(document)
    text = document.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{document} has no lines {begin.strip()} and {end.strip()} for the table to stand between")
    write_text(document, before + begin + make(paths, document.parent) + "\n" + end + after)


def _row(path: Path, folder: Path) -> str:
    with reading(path) as contents:
        run, summary, floors = contents["run"], contents["summary"], contents["floors"]
        cells = [
            *_tasks(run),
            f"[`{run['planner']['name']}`]({_link(path, folder)})"
            + beginning(run["planner"])
            + "".join(f", {limit}" for limit in limits(run["planner"]))
            + "".join(f", `{setting}`" for setting in settings(run)),
            f"**{_percent(summary)}**",
            _interval(summary),
            summary["n"],
            _percent(floors.get("random")),
            _percent(floors.get("none")),
            _number(summary["steps_to_success"], "g"),
            f"{_number(summary['plan_ms_p50'], '.0f')} / {_number(summary['plan_ms_p95'], '.0f')}",
            _number(summary["rollouts"] or None, ".0f"),
            _gflop(summary),
        ]
    return _line(cells)


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _tasks(run: dict[str, Any]) -> tuple[str, str, int]:
    """Environment, protocol and split, and offset."""
    tasks = run["tasks"]
    return tasks["env_id"], f"{tasks['protocol']} {tasks['split']}", tasks["offset_env_steps"]


def _link(path: Path, folder: Path) -> str:
    """The way from `folder` to the file."""
    return Path(os.path.relpath(path, folder)).as_posix()


def beginning(planner: dict[str, Any]) -> str:
    """Where its plans began, if that was not a proposal."""
    return "" if "agent" not in planner or planner["agent"]["proposal"] else ", no proposal"


def limits(planner: dict[str, Any]) -> list[str]:
    """The most that it was allowed to spend."""
    budget = planner.get("budget", {})
    units = {
        "rollouts": (1, "rollouts"),
        "iterations": (1, "iterations"),
        "flops": (1e9, "GFLOP"),
        "seconds": (1e-3, "ms"),
    }
    return [f"within {budget[name] / size:g} {unit}" for name, (size, unit) in units.items() if budget.get(name)]


def settings(run: dict[str, Any]) -> list[str]:
    """What was set on the command line, but for the proposal, of which `beginning` tells, and any unusual cost."""
    words = shlex.split(run["command"].replace("--set=", "--set "))
    given = dict(value.split("=", 1) for option, value in pairwise(words) if option == "--set" and "=" in value)
    cost = run["planner"].get("agent", {}).get("cost", DEFAULT_COST)
    if cost != DEFAULT_COST:
        given["agent.cost"] = cost  # maybe set by no one: the checkpoint's recommendation, or the protocol's
    return [f"{name}={value}" for name, value in given.items() if name != "agent.proposal"]


def _gflop(summary: dict[str, Any]) -> str:
    return _number(summary["flops"] / 1e9 or None, ".0f" if summary["flops"] >= 1e10 else ".1f")


def _percent(summary: dict[str, Any] | None) -> str:
    return "-" if summary is None else f"{100 * summary['success']:.1f}"


def _interval(summary: dict[str, Any]) -> str:
    return f"{100 * summary['ci95'][0]:.1f}-{100 * summary['ci95'][1]:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
