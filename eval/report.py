"""Markdown tables of several results, such as the one in the README."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import UserError
from ..files import read_text, write_text
from ..protocols import DEFAULT_COST
from .results import Summary
from .results_file import parse_results

_HEADER = (
    "| env | protocol | offset | planner | success % | 95 % CI | n | random % | do nothing % | steps | "
    "plan ms p50 / p95 | rollouts | GFLOP |"
)

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "[": "\\[", "]": "\\]", "`": "&#96;"}

FLOORS = {"random": "random", "none": "do nothing"}
"""Names of the floors in tables."""


def markdown_table(paths: Iterable[str | Path], folder: str | Path = ".") -> str:
    """One row for each ``results.json``, in the order of `paths`; the floors are those on the same tasks.

    Links lead from `folder` to the files.

    Raises:
        ValueError: a file is not a results.json.
    """
    rule = "|" + " --- |" * (_HEADER.count("|") - 1)
    return "\n".join([_HEADER, rule, *(_row(Path(path), Path(folder)) for path in paths)])


def compact_table(paths: Iterable[str | Path], folder: str | Path = ".") -> str:
    """One row for each planner, one column for each set of tasks; the other way round if there are more of the latter.

    A cell has the success rate in percent, its 95 % interval, and GFLOP a decision. The floors come last, from any of
    the results on the same tasks. Links lead from `folder` to the files.

    Raises:
        ValueError: a file is not a results.json, or two are of the same planner on the same tasks.
    """
    cells: dict[tuple[str, str], str] = {}
    floors: dict[tuple[str, str], str] = {}
    for path in map(Path, paths):
        results = parse_results(path)
        planner, tasks = _code(results.run["planner"]["name"]), " ".join(map(str, _tasks(results.run)))
        if (planner, tasks) in cells:
            raise UserError(f"{path} is another result of {planner} on {tasks}: a compact table has room for one")
        success = f"[{_percent(results.summary)}]({_link(path, Path(folder))})"
        cells[planner, tasks] = f"{success} ({_interval(results.summary)}), {_gflop_label(results.summary)}"
        floors |= {
            (FLOORS[name], tasks): _percent(results.floors.get(name)) for name in FLOORS if name in results.floors
        }
    columns = list(dict.fromkeys(tasks for _, tasks in cells))
    names = [*dict.fromkeys(name for name, _ in cells), *FLOORS.values()]
    cells |= floors
    rows = [["", *columns], *([name, *(cells.get((name, tasks), "-") for tasks in columns)] for name in names)]
    if len(columns) > len(names):
        rows = [list(row) for row in zip(*rows, strict=True)]
    return "\n".join(map(_line, [rows[0], ["---"] * len(rows[0]), *rows[1:]]))


def write_table(
    paths: Iterable[str | Path],
    document: str | Path,
    mark: str = "results",
    make: Callable[[Iterable[str | Path], Path], str] = markdown_table,
) -> None:
    """Replaces the lines of a Markdown `document` between ``<!-- mark -->`` and ``<!-- /mark -->`` by the table.

    `make` is one of this module's tables.

    Raises:
        ValueError: as the table, or the document has no such lines.
    """
    document = Path(document)
    text = read_text(document)
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, opening, marked = text.partition(begin)
    _, closing, after = marked.partition(end)
    if not opening or not closing:
        raise UserError(f"{document} has no lines {begin.strip()} and {end.strip()} for the table to stand between")
    write_text(document, before + begin + make(paths, document.parent) + "\n" + end + after)


def _row(path: Path, folder: Path) -> str:
    results = parse_results(path)
    run, summary, floors = results.run, results.summary, results.floors
    cells = [
        *_tasks(run),
        f"[{_code(run['planner']['name'])}]({_link(path, folder)})"
        + proposal_label(run["planner"])
        + "".join(f", {limit}" for limit in budget_labels(run["planner"]))
        + "".join(f", {_code(setting)}" for setting in changed_settings(run)),
        f"**{_percent(summary)}**",
        _interval(summary),
        summary.n,
        _percent(floors.get("random")),
        _percent(floors.get("none")),
        _number(summary.steps_to_success, "g"),
        f"{_number(summary.plan_ms_p50, '.0f')} / {_number(summary.plan_ms_p95, '.0f')}",
        _number(summary.rollouts or None, ".0f"),
        _gflop_label(summary),
    ]
    return _line(cells)


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _tasks(run: dict[str, Any]) -> tuple[str, str, int]:
    """Environment, protocol and split, and offset."""
    tasks = run["tasks"]
    return plain_text(tasks["env_id"]), plain_text(f"{tasks['protocol']} {tasks['split']}"), tasks["offset_env_steps"]


def _link(path: Path, folder: Path) -> str:
    """Relative link from `folder` to the file; characters that would end a Markdown link are percent-encoded."""
    return quote(Path(os.path.relpath(path, folder)).as_posix(), safe="/+=,~")


def plain_text(name: str) -> str:
    """Name as text in a cell of a Markdown table: no columns, lines or HTML of its own."""
    text = " ".join(name.split())
    return "".join(_ESCAPES.get(character, character) for character in text)


def _code(name: str) -> str:
    """Name as code in a cell of a Markdown table, where ``|`` would end the cell and ``<`` begin HTML."""
    text = " ".join(name.split()).replace("`", "'")
    return "`" + text.replace("|", "\\|").replace("<", "&lt;") + "`"


def proposal_label(planner: dict[str, Any]) -> str:
    """Words for a planner whose plans began without a proposal."""
    return "" if "agent" not in planner or planner["agent"]["proposal"] else ", no proposal"


def budget_labels(planner: dict[str, Any]) -> list[str]:
    """Words for the limits of a planner's budget."""
    budget = planner.get("budget", {})
    units = {
        "rollouts": (1, "rollouts"),
        "iterations": (1, "iterations"),
        "flops": (1e9, "GFLOP"),
        "seconds": (1e-3, "ms"),
    }
    return [f"within {budget[name] / size:g} {unit}" for name, (size, unit) in units.items() if budget.get(name)]


def changed_settings(run: dict[str, Any]) -> list[str]:
    """Settings of the command line, without the proposal (see `proposal_label`); an unusual planning cost; shifts."""
    words = shlex.split(run["command"].replace("--set=", "--set "))
    settings = dict(value.split("=", 1) for option, value in pairwise(words) if option == "--set" and "=" in value)
    cost = run["planner"].get("agent", {}).get("cost", DEFAULT_COST)
    if cost != DEFAULT_COST:
        settings["agent.cost"] = cost  # it may come from the checkpoint or the protocol
    changed = [f"{name}={value}" for name, value in settings.items() if name != "agent.proposal"]
    return [*changed, *run.get("shifts", [])]


def _gflop_label(summary: Summary) -> str:
    return _number(summary.flops / 1e9 or None, ".0f" if summary.flops >= 1e10 else ".1f")


def _percent(summary: Summary | None) -> str:
    return "-" if summary is None else f"{100 * summary.success:.1f}"


def _interval(summary: Summary) -> str:
    return f"{100 * summary.ci95[0]:.1f}-{100 * summary.ci95[1]:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
