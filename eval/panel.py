"""One panel of a figure: success rates as lines with direct labels, the floors and the ceiling behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import FAINT, Label, crop_percent, label_ends, quiet_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 6.0  # percent: reference lines closer than this share a label


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
        hollow: places ``(x, percent)`` where nothing could be measured.
    """

    name: str
    color: str
    line: Sequence[Point]
    thin: Sequence[Sequence[Point]] = ()
    beside: Sequence[tuple[Point, str]] = ()
    hollow: Sequence[tuple[float, float]] = ()

    @property
    def points(self) -> list[Point]:
        """All points that were measured."""
        return [*self.line, *(point for line in self.thin for point in line), *(point for point, _ in self.beside)]


def draw_series(ax: Axes, series: Iterable[Series]) -> None:
    """Draws the lines and points of `series`, without labels."""
    quiet_axes(ax)
    for one in series:
        for thin in one.thin:
            ax.plot([point.x for point in thin], [point.success for point in thin], color=one.color, lw=0.7, alpha=0.4)
        line = sorted(one.line, key=lambda point: point.x)
        ax.plot([point.x for point in line], [point.success for point in line], "o-", color=one.color, lw=1.8, ms=4.5)
        for point, marker in one.beside:
            ax.plot([point.x], [point.success], marker, color=one.color, ms=6)
        for point in (*line, *(point for point, _ in one.beside)):
            ax.plot([point.x] * 2, [point.low, point.high], color=one.color, lw=1.1, alpha=0.5)
        for place in one.hollow:
            ax.plot(*([value] for value in place), "o", mfc="none", mec=one.color, ms=6)


def crop(axes: Iterable[Axes], series: Iterable[Series], references: Iterable[float]) -> None:
    """Limits the vertical axis of `axes` to where `series` and `references` are, in percent."""
    points = [point for one in series for point in one.points]
    values = [*references, *(point.low for point in points), *(point.high for point in points)]
    for ax in axes:
        crop_percent(ax, values or [0.0, 100.0])


def label_series(ax: Axes, series: Iterable[Series]) -> None:
    """Writes the name of each series beside its last point, once the limits of `ax` are final."""
    labels = []
    for one in series:
        if one.points:
            last = max(one.line or one.points, key=lambda point: point.x)
            labels.append(Label(last.x, last.success, one.name, one.color))
        elif one.hollow:
            labels.append(Label(*max(one.hollow), one.name, one.color))
    label_ends(ax, labels)


def draw_references(ax: Axes, references: Mapping[str, float]) -> None:
    """Draws quiet lines at heights in percent, with their names at the left; lines near each other share a label."""
    groups: list[list[str]] = []
    for name, height in sorted(references.items(), key=lambda item: item[1]):
        ax.axhline(height, color=FAINT, lw=0.8, ls=(0, (4, 3)), zorder=1)
        if groups and height - references[groups[-1][-1]] < NEAR:
            groups[-1].append(name)
        else:
            groups.append([name])
    for group in groups:
        height = references[group[-1]]
        ax.annotate(
            ", ".join(group),
            (0.01, height),
            (0, 2),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            color=FAINT,
            fontsize=7.5,
        )
