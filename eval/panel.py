"""Panels of a figure: success rates as lines with direct labels, the floors and the ceiling behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import FAINT, INK, Label, crop_percent, label_beside, label_ends, log_axis, new_figure, quiet_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, MARGIN = 4.6, 3.0, 0.6  # inches of a panel, and around all
STACK = 0.05  # of the height of a panel, between hollow markers
NEAR = 6.0  # percent: reference lines closer than this share a label
FAR = 15.0  # percent: reference lines farther than this from all points are beyond the axis


@dataclass(frozen=True)
class Point:
    """A success rate and its interval, in percent, at a cost or distance `x`."""

    x: float
    success: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """What a panel shows in one colour.

    Attributes:
        name: its label.
        color: its colour.
        line: points that are joined, with bars.
        thin: lines in the background.
        beside: points that stand alone, and their marker.
        hollow: costs at which nothing could be measured, drawn at the lower edge.
        style: marker and dashes of the line, as matplotlib names them.
    """

    name: str
    color: str
    line: Sequence[Point]
    thin: Sequence[Sequence[Point]] = ()
    beside: Sequence[tuple[Point, str]] = ()
    hollow: Sequence[float] = ()
    style: str = "o-"

    @property
    def points(self) -> list[Point]:
        """All points that were measured."""
        return [*self.line, *(point for line in self.thin for point in line), *(point for point, _ in self.beside)]


@dataclass(frozen=True)
class Panel:
    """Contents of one panel.

    Attributes:
        title: text above it.
        series: its lines.
        references: heights of quiet lines behind them, in percent, by their names.
    """

    title: str
    series: Sequence[Series]
    references: Mapping[str, float]


def draw_grid(grid: Sequence[Sequence[Panel]], labels: Sequence[str], ticks: Sequence[int] = ()) -> Figure:
    """Figure of panels in rows and columns.

    Args:
        grid: the panels; those of a row have the same vertical limits.
        labels: horizontal axis of each column.
        ticks: its ticks; without them, it is logarithmic.
    """
    figure = new_figure(MARGIN + WIDTH * len(labels), MARGIN + HEIGHT * len(grid))
    figure.set_layout_engine("constrained", h_pad=0.12)  # inches: titles stand clear of the panels above them
    axes = figure.subplots(len(grid), len(labels), squeeze=False, sharex="col")
    for line, panels in zip(axes, grid, strict=True):
        for ax, panel in zip(line, panels, strict=False):
            draw_series(ax, panel.series)
            ax.set_title(panel.title, fontsize=10, loc="left", color=INK)
        series = [one for panel in panels for one in panel.series]
        crop(line, series, [height for panel in panels for height in panel.references.values()])
        line[0].set_ylabel("success, %", color=FAINT)
    for ax, label in zip(axes[-1], labels, strict=True):
        ax.set_xlabel(label, color=FAINT)
        if ticks:
            ax.set_xticks(ticks)
        else:
            log_axis(ax)
    figure.draw_without_rendering()  # labels are placed by the size of the panels
    for line, panels in zip(axes, grid, strict=True):
        for ax, panel in zip(line, panels, strict=False):
            draw_references(ax, panel.references)
            label_series(ax, panel.series)
    return figure


def draw_series(ax: Axes, series: Iterable[Series]) -> None:
    """Draws the lines and points of `series`, without labels."""
    quiet_axes(ax)
    stacked = 0
    for one in series:
        for thin in one.thin:
            ax.plot([point.x for point in thin], [point.success for point in thin], color=one.color, lw=0.7, alpha=0.4)
        line = sorted(one.line, key=lambda point: point.x)
        ax.plot(
            [point.x for point in line], [point.success for point in line], one.style, color=one.color, lw=1.8, ms=4.5
        )
        for point, marker in one.beside:
            ax.plot([point.x], [point.success], marker, color=one.color, ms=6)
        for point in (*line, *(point for point, _ in one.beside)):
            ax.plot([point.x] * 2, [point.low, point.high], color=one.color, lw=1.1, alpha=0.5)
        if one.hollow:  # those of several series stand above each other
            heights, edge = [STACK * stacked] * len(one.hollow), ax.get_xaxis_transform()
            ax.plot(one.hollow, heights, "o", mfc="none", mec=one.color, ms=6, transform=edge, clip_on=False)
            stacked += 1


def crop(axes: Iterable[Axes], series: Iterable[Series], references: Iterable[float]) -> None:
    """Limits the vertical axis of `axes` to where `series` are, and to those `references` that are near, in percent."""
    points = [point for one in series for point in one.points]
    values = [*(point.low for point in points), *(point.high for point in points)] or [0.0, 100.0]
    near = [height for height in references if min(values) - FAR < height < max(values) + FAR]
    for ax in axes:
        crop_percent(ax, [*values, *near])


def label_series(ax: Axes, series: Sequence[Series]) -> None:
    """Writes the names of `series`, once the limits of `ax` are final.

    A name stands beside the last point of its series where all others lie farther right, else to the right of `ax`.
    """
    labels = [
        Label(max(one.hollow), ax.get_ylim()[0], one.name, one.color) for one in series if one.hollow and not one.points
    ]
    ends = [(max(one.line or one.points, key=lambda point: point.x), one) for one in series if one.points]
    ends.sort(key=lambda end: end[0].x)
    alone = True
    for number, (last, one) in enumerate(ends):
        label = Label(last.x, last.success, one.name, one.color)
        others = [point.x for _, other in ends[number + 1 :] for point in other.points]
        alone = alone and label_beside(ax, label, min(others, default=ax.get_xlim()[0]))
        if not alone:
            labels.append(label)
    label_ends(ax, labels)


def draw_references(ax: Axes, references: Mapping[str, float]) -> None:
    """Draws quiet lines at heights in percent, with their names at the left; lines near each other share a label.

    Those beyond the limits of `ax` are named with their height, at the edge that they lie behind.
    """
    low, high = ax.get_ylim()
    groups: list[list[str]] = []
    edges: dict[float, list[str]] = {}
    for name, height in sorted(references.items(), key=lambda item: item[1]):
        if not low <= height <= high:
            edges.setdefault(low if height < low else high, []).append(f"{name} {height:.0f} %")
            continue
        ax.axhline(height, color=FAINT, lw=0.8, ls=(0, (4, 3)), zorder=1)
        if groups and height - references[groups[-1][-1]] < NEAR:
            groups[-1].append(name)
        else:
            groups.append([name])
    for group in groups:
        _note(ax, ", ".join(group), references[group[-1]], 2)
    for edge, names in edges.items():
        arrow = "\N{DOWNWARDS ARROW}" if edge == low else "\N{UPWARDS ARROW}"
        _note(ax, f"{arrow} {', '.join(names)}", edge, 9 if edge == low else -12)


def _note(ax: Axes, text: str, height: float, above: float) -> None:
    """Writes small quiet words at the left edge of `ax`, some points above a height."""
    ax.annotate(
        text,
        (0.01, height),
        (0, above),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        color=FAINT,
        fontsize=7.5,
    )
