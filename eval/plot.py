"""Success against planning compute, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..figures import new_figure, save_figure
from .report import conditions
from .results import reading

_MARKERS = "osD^vP*Xp<>h"


@dataclass(frozen=True)
class _Point:
    """What a plot shows of one ``results.json``."""

    tasks: str
    planner: str
    success: float
    ci95: tuple[float, float]
    floor: float
    costs: tuple[float, float]  # GFLOP and ms a decision


def compute_plot(paths: Iterable[str | Path], out: str | Path) -> None:
    """Draws success rates over what a decision costs, GFLOP on the left and milliseconds on the right, into `out`.

    One row of axes for each set of tasks, one marker for each planner, with 95 % intervals; the dashed line is the
    better of the floors. Results that plan nothing, the floors themselves and replay, are left out.

    Raises:
        ValueError: a file is not a results.json, none of them is of a planner, or matplotlib is not installed.
    """
    points = [point for path in paths if (point := _point(Path(path))) is not None]
    if not points:
        raise ValueError("none of the results is of a planner: there is no compute to plot success against")
    tasks = list(dict.fromkeys(point.tasks for point in points))
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
    legend = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside right upper", frameon=False)
    save_figure(figure, out)


def _point(path: Path) -> _Point | None:
    with reading(path) as contents:
        run, summary = contents["run"], contents["summary"]
        if not summary["flops"] or summary["plan_ms_p50"] is None:
            return None
        tasks, floors = run["tasks"], contents["floors"].values()
        return _Point(
            tasks=f"{tasks['env_id']}, {tasks['protocol']} {tasks['split']}, offset {tasks['offset_env_steps']}",
            planner=run["planner"]["name"] + conditions(run["planner"]),
            success=100 * summary["success"],
            ci95=(100 * summary["ci95"][0], 100 * summary["ci95"][1]),
            floor=100 * max((floor["success"] for floor in floors), default=0.0),
            costs=(summary["flops"] / 1e9, summary["plan_ms_p50"]),
        )


def _draw(ax: Any, points: Sequence[_Point], column: int, planners: Sequence[str]) -> None:
    """Results on the same tasks over one of their `costs`; `planners` are all of the figure's."""
    for point in points:
        low, high = point.ci95
        planner = planners.index(point.planner)
        ax.errorbar(
            point.costs[column],
            point.success,
            yerr=[[max(0.0, point.success - low)], [max(0.0, high - point.success)]],
            fmt=_MARKERS[planner % len(_MARKERS)],
            color=f"C{planner % 10}",
            capsize=2,
            label=point.planner,
        )
    floor = max(point.floor for point in points)
    ax.axhline(floor, color="grey", linestyle="--", linewidth=1, label="better floor")
    ax.set_ylim(0, 100)
    ax.grid(alpha=0.3)
