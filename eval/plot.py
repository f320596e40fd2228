"""Success rates as pictures: against planning compute, and beside each other."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .figures import new_figure, save_figure
from .report import beginning, limits, settings
from .results import reading

LABEL_WIDTH, TITLE_WIDTH = 60, 80  # letters
_MARKERS = "osD^vP*Xp<>hd8"
_COLORS = (*(f"C{number}" for number in range(10)), "black", "magenta", "limegreen")


@dataclass(frozen=True)
class _Point:
    """What a plot shows of one ``results.json``; `line` is common to all that differ in what may be spent only."""

    tasks: str
    planner: str
    settings: tuple[str, ...]
    line: str
    success: float
    ci95: tuple[float, float]
    floor: float
    costs: tuple[float, float]  # GFLOP and ms a decision


def compute_plot(paths: Iterable[str | Path], out: str | Path) -> None:
    """Draws success rates over what a decision costs, GFLOP on the left and milliseconds on the right, into `out`.

    One row of axes for each set of tasks; lines join what a planner reached within different budgets, with 95 %
    intervals; the dashed line is the better of the floors. Results that plan nothing, the floors themselves and replay,
    are left out.

    Raises:
        ValueError: a file is not a results.json, none of them is of a planner, or matplotlib is not installed.
    """
    points, tasks = _read(paths)
    planners = list(dict.fromkeys(point.planner for point in points))
    figure = new_figure(10, 0.6 + 3.4 * len(tasks))
    axes = figure.subplots(len(tasks), 2, sharey="row", sharex="col", squeeze=False)
    for row, name in zip(axes, tasks, strict=True):
        shown = [point for point in points if point.tasks == name]
        for column, ax in enumerate(row):
            _draw(ax, shown, column, planners)
        row[0].set(title=name, ylabel="success, %")
    for ax, unit in zip(axes[-1], ("GFLOP a decision", "milliseconds a decision"), strict=True):
        ax.set(xscale="log", xlabel=unit)
        ax.xaxis.set_minor_formatter("")  # they would overlap
    legend = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside right upper", frameon=False)
    save_figure(figure, out)


def bar_plot(paths: Iterable[str | Path], out: str | Path) -> None:
    """Draws success rates of planners as bars into `out`, with 95 % intervals and with what was set beside each.

    One axes for each set of tasks, whose first planner, the dashed line, is what the others are compared with; what all
    of them have in common is in its title. Results that plan nothing are left out.

    Raises:
        ValueError: as `compute_plot`.
    """
    points, tasks = _read(paths)
    groups = [[point for point in points if point.tasks == name] for name in tasks]
    figure = new_figure(10, 0.8 * len(groups) + 0.3 * len(points))
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=[len(group) for group in groups])
    for ax, name, group in zip(axes.flat, tasks, groups, strict=True):
        values = [point.success for point in group]
        ax.barh(range(len(group)), values, xerr=_errors(group), color="C0", alpha=0.6, capsize=2)
        ax.axvline(values[0], color="grey", linestyle="--", linewidth=1)
        common = [setting for setting in group[0].settings if all(setting in point.settings for point in group)]
        own = [[setting for setting in point.settings if setting not in common] for point in group]
        labels = [_in_lines([point.planner, *rest], LABEL_WIDTH) for point, rest in zip(group, own, strict=True)]
        ax.set_yticks(range(len(group)), labels)
        ax.set_title(_in_lines([name, *common], TITLE_WIDTH))
        ax.set_xlim(0, 100)
        ax.invert_yaxis()  # first on top
    axes[-1, 0].set_xlabel("success, %")
    save_figure(figure, out)


def _read(paths: Iterable[str | Path]) -> tuple[list[_Point], list[str]]:
    """What there is to plot, and the sets of tasks."""
    points = [point for path in paths if (point := _point(Path(path))) is not None]
    if not points:
        raise UserError("none of the results is of a planner: there is nothing to plot")
    return points, list(dict.fromkeys(point.tasks for point in points))


def _in_lines(words: Sequence[str], width: int) -> str:
    return textwrap.fill(", ".join(words), width, break_on_hyphens=False)


def _errors(points: Sequence[_Point]) -> list[list[float]]:
    """How far the intervals reach to either side, as matplotlib's error bars want it."""
    low = [max(0.0, point.success - point.ci95[0]) for point in points]
    return [low, [max(0.0, point.ci95[1] - point.success) for point in points]]


def _point(path: Path) -> _Point | None:
    with reading(path) as contents:
        run, summary = contents["run"], contents["summary"]
        if not summary["flops"] or summary["plan_ms_p50"] is None:
            return None
        tasks, floors = run["tasks"], contents["floors"].values()
        return _Point(
            tasks=f"{tasks['env_id']}, {tasks['protocol']} {tasks['split']}, offset {tasks['offset_env_steps']}",
            planner=run["planner"]["name"] + beginning(run["planner"]),
            settings=(*limits(run["planner"]), *settings(run)),
            line=_line(run),
            success=100 * summary["success"],
            ci95=(100 * summary["ci95"][0], 100 * summary["ci95"][1]),
            floor=100 * max((floor["success"] for floor in floors), default=0.0),
            costs=(summary["flops"] / 1e9, summary["plan_ms_p50"]),
        )


def _line(run: dict[str, Any]) -> str:
    """All that decides what a planner does, but for how long it may."""
    planner = {name: value for name, value in run["planner"].items() if name not in ("budget", "iterations")}
    return json.dumps([planner, run.get("checkpoint")], sort_keys=True)


def _draw(ax: Any, points: Sequence[_Point], column: int, planners: Sequence[str]) -> None:
    """Results on the same tasks over one of their `costs`; `planners` are all of the figure's."""
    for name in dict.fromkeys(point.line for point in points):
        line = sorted((point for point in points if point.line == name), key=lambda point: point.costs[column])
        number = planners.index(line[0].planner)
        ax.errorbar(
            [point.costs[column] for point in line],
            [point.success for point in line],
            yerr=_errors(line),
            fmt=f"{_MARKERS[number % len(_MARKERS)]}-",
            color=_COLORS[number % len(_COLORS)],
            linewidth=1,
            capsize=2,
            label=line[0].planner,
        )
    floor = max(point.floor for point in points)
    ax.axhline(floor, color="grey", linestyle="--", linewidth=1, label="better floor")
    ax.set_ylim(0, 100)
    ax.grid(alpha=0.3)
