"""Success rates as pictures: against planning compute, and beside each other."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .figures import color_of, new_figure, save_figure
from .panel import Panel, Point, Series, draw_grid
from .report import budget_labels, changed_settings, proposal_label
from .results_file import parse_results

LABEL_WIDTH, TITLE_WIDTH = 60, 80  # letters
_MARKERS = "osD^vP*Xp<>hd8"


@dataclass(frozen=True)
class _Point:
    """Data of one ``results.json`` in a plot; results that differ in their budget only have the same `line`."""

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

    One row of axes for each set of tasks; lines join the results of a planner within different budgets, with 95 %
    intervals and its name at their end; the dashed line is the better of the floors. Results that plan nothing, the
    floors themselves and replay, are left out.

    Raises:
        ValueError: a file is not a results.json, none of them is of a planner, or matplotlib is not installed.
    """
    points, tasks = _read(paths)
    planners = list(dict.fromkeys(point.planner for point in points))
    grid = []
    for name in tasks:
        shown = [point for point in points if point.tasks == name]
        floor = max(point.floor for point in shown)
        grid.append([Panel(name, _series(shown, column, planners), {"better floor": floor}) for column in (0, 1)])
    save_figure(draw_grid(grid, ["GFLOP a decision", "milliseconds a decision"]), out)


def bar_plot(paths: Iterable[str | Path], out: str | Path) -> None:
    """Draws success rates of planners as bars into `out`, with 95 % intervals and with the changed settings of each.

    One axes for each set of tasks, whose first planner, the dashed line, is what the others are compared with; settings
    that all of them share are in its title. Results that plan nothing are left out.

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
        labels = [
            _in_lines([point.planner, *settings], LABEL_WIDTH) for point, settings in zip(group, own, strict=True)
        ]
        ax.set_yticks(range(len(group)), labels)
        ax.set_title(_in_lines([name, *common], TITLE_WIDTH))
        ax.set_xlim(0, 100)
        ax.invert_yaxis()  # first on top
    axes[-1, 0].set_xlabel("success, %")
    save_figure(figure, out)


def _read(paths: Iterable[str | Path]) -> tuple[list[_Point], list[str]]:
    """Results to plot, and their sets of tasks."""
    points = [point for path in paths if (point := _point(Path(path))) is not None]
    if not points:
        raise UserError("none of the results is of a planner: there is nothing to plot")
    return points, list(dict.fromkeys(point.tasks for point in points))


def _in_lines(words: Sequence[str], width: int) -> str:
    return textwrap.fill(", ".join(words), width, break_on_hyphens=False)


def _errors(points: Sequence[_Point]) -> list[list[float]]:
    """Lengths of the intervals to either side, in the form of matplotlib's error bars."""
    low = [max(0.0, point.success - point.ci95[0]) for point in points]
    return [low, [max(0.0, point.ci95[1] - point.success) for point in points]]


def _point(path: Path) -> _Point | None:
    results = parse_results(path)
    run, summary = results.run, results.summary
    if not summary.flops or summary.plan_ms_p50 is None:
        return None
    tasks, floors = run["tasks"], results.floors.values()
    return _Point(
        tasks=f"{tasks['env_id']}, {tasks['protocol']} {tasks['split']}, offset {tasks['offset_env_steps']}",
        planner=run["planner"]["name"] + proposal_label(run["planner"]),
        settings=(*budget_labels(run["planner"]), *changed_settings(run)),
        line=_line(run),
        success=100 * summary.success,
        ci95=(100 * summary.ci95[0], 100 * summary.ci95[1]),
        floor=100 * max((floor.success for floor in floors), default=0.0),
        costs=(summary.flops / 1e9, summary.plan_ms_p50),
    )


def _line(run: dict[str, Any]) -> str:
    """Settings from which a planner's actions follow, except for its budget."""
    planner = {name: value for name, value in run["planner"].items() if name not in ("budget", "iterations")}
    return json.dumps([planner, run.get("checkpoint")], sort_keys=True)


def _series(points: Sequence[_Point], column: int, planners: Sequence[str]) -> list[Series]:
    """Results on the same tasks over one of their `costs`; `planners` are all of the figure's."""
    series = []
    for name in dict.fromkeys(point.line for point in points):
        line = [point for point in points if point.line == name]
        number = planners.index(line[0].planner)
        measured = [Point(point.costs[column], point.success, *point.ci95) for point in line]
        style = f"{_MARKERS[number % len(_MARKERS)]}-"
        series.append(Series(line[0].planner, color_of(number), measured, style=style))
    return series
