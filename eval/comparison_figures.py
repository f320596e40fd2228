"""Figures of a comparison: success against FLOPs, against milliseconds and against the distance of the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import read_text
from .comparison import CEILING, FLOOR_NAMES, FLOORS, POLICY, Limit, ModelComparison, Row
from .figures import FAINT, color_of, save_figure
from .panel import Panel, Point, Series, draw_grid

MOST_LIMITS = 3  # panels beside each other
DODGE = 0.015  # of the width of a panel, between models at the same offset
DIAMOND, SQUARE = "D", "s"  # planning without a budget; a policy that does not plan
Cost = Callable[[Row], "float | None"]


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn.

    Attributes:
        svg: its SVG.
        caption: text below it.
        alt: text in its place.
    """

    svg: str
    caption: str
    alt: str


def draw_figures(comparison: ModelComparison, folder: Path) -> list[Picture]:
    """Writes the figures into `folder`, each as PNG and SVG."""
    pictures = [
        _cost_figure(comparison, folder / "success-flops", "flops", "GFLOP a decision, planning and encoding"),
        _cost_figure(comparison, folder / "success-ms", "ms", "milliseconds a decision, planning and encoding"),
    ]
    if len({offset for _, offset in comparison.sets}) > 1:
        pictures.append(_offset_figure(comparison, folder / "success-offset"))
    return pictures


def _cost_figure(comparison: ModelComparison, path: Path, unit: str, label: str) -> Picture:
    """Success over a cost: a row of panels for each environment, a column for each offset."""
    cost: Cost = (lambda row: row.flops / 1e9) if unit == "flops" else (lambda row: row.ms)
    grid = [
        [
            Panel(
                f"{env}, goals {offset} steps ahead",
                [_cost_series(comparison, (env, offset), model, unit, cost) for model in comparison.models],
                _references(comparison, env, offset),
            )
            for other, offset in comparison.sets
            if other == env
        ]
        for env in dict.fromkeys(env for env, _ in comparison.sets)
    ]
    caption = (
        f"Success against {label}. A line is a model with its best planner within each budget, thin lines are "
        "its other planners; a diamond is planning without a budget, a square is a policy that does not plan. Bars are "
        "95 % Wilson intervals, dashed lines the floors and the ceiling on the same tasks."
    )
    if unit == "flops":
        caption += " A hollow circle is a budget that affords no rollout or no plan."
    _save(grid, path, label)
    return _picture(comparison, path, caption)


def _cost_series(comparison: ModelComparison, tasks: tuple[str, int], model: str, unit: str, cost: Cost) -> Series:
    named = {limit.unit for limit in comparison.limits} - {"none"}
    units = {unit} if unit in named else named  # budgets in the figure's own unit, if there are any
    rows = [row for row in comparison.rows if (row.key.env, row.key.offset, row.key.model) == (*tasks, model)]
    limited = [row for row in rows if row.key.limit.unit in units]
    best = [row for limit in comparison.limits if limit.unit in units for row in _best(comparison, tasks, limit, model)]
    planners = dict.fromkeys(row.key.planner for row in limited)
    free = sorted((row for row in rows if row.key.limit == Limit() and row.played), key=lambda row: -row.success)[:1]
    lacking = {row.key.limit for row in limited} - {row.key.limit for row in best}
    return Series(
        model,
        color_of(comparison.models.index(model)),
        _points(best, cost),
        [_points([row for row in limited if row.key.planner == planner], cost) for planner in planners],
        [(point, SQUARE if row.key.planner == POLICY else DIAMOND) for row in free for point in _points([row], cost)],
        [limit.value / 1e9 for limit in sorted(lacking) if limit.unit == unit == "flops"],
    )


def _best(comparison: ModelComparison, tasks: tuple[str, int], limit: Limit, model: str) -> list[Row]:
    """The best row of a model within a budget, if it searches and was played there."""
    best = comparison.best(*tasks, limit)
    return [row for row in best if row.key.model == model and row.key.planner != POLICY]


def _offset_figure(comparison: ModelComparison, path: Path) -> Picture:
    """Success over the distance of the goal: a row of panels for each environment, a column for each budget."""
    grid = []
    for env in dict.fromkeys(env for env, _ in comparison.sets):
        offsets = [offset for other, offset in comparison.sets if other == env]
        floors = [_floor_series(comparison, env, offsets, name) for name in (*FLOORS, CEILING)]
        panels = []
        for limit in comparison.limits[-MOST_LIMITS:]:
            models = [_offset_series(comparison, env, offsets, limit, model) for model in comparison.models]
            panels.append(Panel(f"{env}, {limit}", [*floors, *models], {}))
        grid.append(panels)
    label = "environment steps from start to goal"
    _save(grid, path, label, ticks=sorted({offset for _, offset in comparison.sets}))
    caption = (
        f"Success against {label}: each model with its best planner within the budget of the panel, and its own policy "
        "where it does not plan. Bars are 95 % Wilson intervals, grey lines the floors and the ceiling."
    )
    return _picture(comparison, path, caption)


def _offset_series(comparison: ModelComparison, env: str, offsets: Sequence[int], limit: Limit, model: str) -> Series:
    number = comparison.models.index(model)
    # Bars of several models at one offset stand beside each other.
    shift = DODGE * (max(offsets) - min(offsets)) * (number - (len(comparison.models) - 1) / 2)
    best = [row for offset in offsets for row in comparison.best(env, offset, limit) if row.key.model == model]
    return Series(model, color_of(number), _points(best, lambda row: row.key.offset + shift))


def _floor_series(comparison: ModelComparison, env: str, offsets: Sequence[int], name: str) -> Series:
    """A quiet line of a policy without a model."""
    found = [(offset, comparison.floor(name, env, offset)) for offset in offsets]
    points = [Point(float(offset), *[100 * summary.success] * 3) for offset, summary in found if summary is not None]
    return Series(FLOOR_NAMES[name], FAINT, (), [points])


def _save(grid: Sequence[Sequence[Panel]], path: Path, label: str, ticks: Sequence[int] = ()) -> None:
    """Draws a grid of panels and writes it as PNG and SVG."""
    save_figure(draw_grid(grid, [label] * max(map(len, grid)), ticks), path.with_suffix(".png"))


def _points(rows: Sequence[Row], cost: Cost) -> list[Point]:
    points = []
    for row in rows:
        x = cost(row) if row.played else None
        if x:  # a logarithmic axis has no zero
            points.append(Point(x, 100 * row.success, 100 * row.ci95[0], 100 * row.ci95[1]))
    return points


def _references(comparison: ModelComparison, env: str, offset: int) -> dict[str, float]:
    """Success of policies without a model, in percent, by their names in figures."""
    found = {FLOOR_NAMES[name]: comparison.floor(name, env, offset) for name in (*FLOORS, CEILING)}
    return {name: 100 * summary.success for name, summary in found.items() if summary is not None}


def _picture(comparison: ModelComparison, path: Path, caption: str) -> Picture:
    svg = read_text(path.with_suffix(".svg"))
    best = [
        f"{env}, offset {offset}, {limit}: "
        + ", ".join(f"{row.key.model} {100 * row.success:.0f} %" for row in comparison.best(env, offset, limit))
        for env, offset in comparison.sets
        for limit in comparison.limits
    ]
    return Picture(svg[svg.index("<svg") :], caption, f"{caption.partition('.')[0]}. {'; '.join(best)}.")
