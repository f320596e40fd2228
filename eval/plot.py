"""Success rates as pictures: against planning compute, and beside each other."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .figures import FAINT, INK, TINT, color_of, new_figure, quiet_axes, save_figure
from .panel import Panel, Point, Series, draw_grid
from .report import budget_labels, changed_settings, proposal_label
from .results_file import parse_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_WIDTH, TITLE_WIDTH = 60, 80  # letters
_SPLITS = {"val": "validation"}
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
    figure = new_figure(9, 0.8 * len(groups) + 0.27 * len(points))
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=[len(group) for group in groups])
    for ax, name, group in zip(axes.flat, tasks, groups, strict=True):
        _draw_bars(ax, name, group)
    axes[-1, 0].set_xlabel("success, %", color=FAINT)
    save_figure(figure, out)


def _draw_bars(ax: Axes, name: str, group: Sequence[_Point]) -> None:
    """The results on one set of tasks; the first is what the others are compared with."""
    quiet_axes(ax)
    ax.grid(visible=False)
    values = [point.success for point in group]
    colors = [color_of(0), *[TINT] * (len(group) - 1)]
    ax.barh(range(len(group)), values, height=0.7, color=colors)
    for row, point in enumerate(group):
        ax.plot(point.ci95, [row, row], color=INK, lw=1.1, alpha=0.7)
        ax.annotate(f"{point.success:.1f}", (1, row), xycoords=ax.get_yaxis_transform(), va="center", color=INK, size=8)
    ax.axvline(values[0], color=FAINT, lw=0.8, ls=(0, (4, 3)))
    common = [setting for setting in group[0].settings if all(setting in point.settings for point in group)]
    labels = [
        _in_lines([point.planner, *(words_of(one) for one in point.settings if one not in common)], LABEL_WIDTH)
        for point in group
    ]
    ax.set_yticks(range(len(group)), labels, color=INK, fontsize=8.5)
    ax.set_title(_in_lines([name, *map(words_of, common)], TITLE_WIDTH), loc="left", fontsize=10, color=INK)
    ax.set_xlim(0, 100)
    ax.set_ylim(len(group) - 0.4, -0.6)  # first on top


def words_of(setting: str) -> str:
    """A setting as people say it: "horizon 2" for ``agent.horizon=2``, "no deadline" for ``agent.deadline=null``."""
    path, equals, value = setting.partition("=")
    if not equals:
        return setting
    group, _, name = path.removeprefix("agent.").removeprefix("planner.").rpartition(".")
    words = name.replace("_env_steps", "").replace("num_", "").replace("_", " ")
    if name == "int8":
        words = "8-bit integers"
    if name == "cost":
        words = "cost " + value.replace("-", " ").replace("+", " + ").replace("*", " x ")
    elif words == "replan every":
        words = f"a new plan every {value} steps" if value != "1" else "a new plan every step"
    elif value in ("true", "false", "null"):
        words = words if value == "true" else f"no {words}"
    elif words.endswith("s"):
        words = f"{value} {words.removesuffix('s') if value == '1' else words}"
    else:
        words = f"{words} {value}"
    return f"{words} of the {group}" if group else words


def _read(paths: Iterable[str | Path]) -> tuple[list[_Point], list[str]]:
    """Results to plot, and their sets of tasks."""
    points = [point for path in paths if (point := _point(Path(path))) is not None]
    if not points:
        raise UserError("none of the results is of a planner: there is nothing to plot")
    return points, list(dict.fromkeys(point.tasks for point in points))


def _in_lines(words: Sequence[str], width: int) -> str:
    return textwrap.fill(", ".join(words), width, break_on_hyphens=False)


def _point(path: Path) -> _Point | None:
    results = parse_results(path)
    run, summary = results.run, results.summary
    if not summary.flops or summary.plan_ms_p50 is None:
        return None
    tasks, floors = run["tasks"], results.floors.values()
    return _Point(
        tasks=f"{_env_name(tasks['env_id'])}, {tasks['protocol']} {_SPLITS.get(tasks['split'], tasks['split'])} tasks, "
        f"goals {tasks['offset_env_steps']} steps away",
        planner=run["planner"]["name"] + proposal_label(run["planner"]),
        settings=_settings(run),
        line=_line(run),
        success=100 * summary.success,
        ci95=(100 * summary.ci95[0], 100 * summary.ci95[1]),
        floor=100 * max((floor.success for floor in floors), default=0.0),
        costs=(summary.flops / 1e9, summary.plan_ms_p50),
    )


def _env_name(env_id: str) -> str:
    """The id of an environment without what the package's own share: "PushT" for ``lwm/PushT-v0``."""
    return re.sub(r"^lwm/|-v0$", "", env_id)


def _settings(run: dict[str, Any]) -> tuple[str, ...]:
    """Budget and changed settings, without numbers of iterations, which a budget replaces."""
    budget, settings = budget_labels(run["planner"]), changed_settings(run)
    replaced = ("planner.iterations=", "planner.second.iterations=") if budget else ()
    return (*budget, *(setting for setting in settings if not setting.startswith(replaced)))


def _line(run: dict[str, Any]) -> str:
    """Settings from which a planner's actions follow, except for its budget."""
    planner = {name: value for name, value in run["planner"].items() if name not in ("agent", "budget", "iterations")}
    # How often an agent plans has had two names, and what is off was not recorded at first: the command says what
    # differs. The machine decides about bfloat16, which changes roundings.
    agent = {
        name: value
        for name, value in run["planner"].get("agent", {}).items()
        if value and "replan" not in name and name not in ("bf16", "device")
    }
    own = [setting for setting in changed_settings(run) if setting.startswith("agent.")]
    return json.dumps([planner, agent, own, run.get("checkpoint"), run.get("shifts", [])], sort_keys=True)


def _series(points: Sequence[_Point], column: int, planners: Sequence[str]) -> list[Series]:
    """Results on the same tasks over one of their `costs`; `planners` are all of the figure's."""
    series = []
    for name in dict.fromkeys(point.line for point in points):
        line = [point for point in points if point.line == name]
        number = planners.index(line[0].planner)
        measured = [Point(point.costs[column], point.success, *point.ci95) for point in line]
        style = f"{_MARKERS[number % len(_MARKERS)]}-"
        series.append(Series(_name(line[0], points), color_of(number), measured, style=style))
    return series


def _name(point: _Point, points: Sequence[_Point]) -> str:
    """The planner, and what tells its line from other lines of the same planner."""
    others = [other for other in points if other.planner == point.planner and other.line != point.line]
    changed = [one for one in point.settings if not one.startswith(("within ", "planner.iterations="))]
    own = [setting for setting in changed if any(setting not in other.settings for other in others)]
    return ", ".join([point.planner, *map(words_of, own)])
