"""Pictures of results in one house style, drawn in memory: no display is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import replacing
from ..imports import pip_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#24292f", "#6e7781", "#d8dee4"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A53", INK)
"""Colours for any colour vision (Okabe and Ito, 2008), without their yellow, which is too pale for lines."""
TINT = "#9ecae1"
"""A pale blue: bars that are compared with one of the first colour."""
DPI = 150


@dataclass(frozen=True)
class Label:
    """Text beside the end of a line.

    Attributes:
        x: end of the line, in data units.
        y: the same.
        text: the text.
        color: that of the line.
    """

    x: float
    y: float
    text: str
    color: str


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"plots need matplotlib: {pip_install('plot')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes `figure`, at once or not at all, in the format that the suffix of `path` names (png, pdf, svg, ...).

    The same figure gives the same file. Words in an SVG stay words, and its background is that of the page.
    """
    from matplotlib import rc_context

    path = Path(path)
    undated = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
    # Ids in an SVG follow from the salt: those of two pictures on one page must differ.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}), replacing(path) as partial:
        figure.savefig(partial, dpi=DPI, metadata=undated, transparent=path.suffix == ".svg")


def color_of(number: int) -> str:
    """The colour of a line by its number."""
    return PALETTE[number % len(PALETTE)]


def quiet_axes(ax: Axes) -> None:
    """Leaves of the frame of `ax` its bottom, and of its grid faint horizontal lines."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.tick_params(colors=FAINT, length=0)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)


def crop_percent(ax: Axes, values: Sequence[float]) -> None:
    """Limits the vertical axis, in percent, to where there are `values`, in steps of 10."""
    low = max(0.0, 10 * math.floor((min(values) - 2) / 10))
    high = min(100.0, 10 * math.ceil((max(values) + 2) / 10))
    margin = 0.03 * (high - low)  # markers at the ends are not cut
    ax.set_ylim(low - margin, high + margin)


def log_axis(ax: Axes) -> None:
    """Gives `ax` a logarithmic horizontal axis, with labels at 1, 2 and 5 of a few decades, or at each of many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    low, high = low / 1.6, high * 1.6  # at least a factor of 2.5, so that there is a label
    ax.set_xlim(low, high)
    subs = (1, 2, 5) if high / low < 60 else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=50))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def label_ends(ax: Axes, labels: Sequence[Label], size: float = 9) -> None:
    """Writes `labels` to the right of `ax`, as near to the ends of their lines as they do not overlap."""
    low, high = ax.get_ylim()
    height = ax.get_window_extent().height * 72 / ax.figure.dpi  # pt
    heights = spread([label.y for label in labels], 1.25 * size * (high - low) / height, low, high)
    for label, y in zip(labels, heights, strict=True):
        ax.annotate(
            label.text,
            (label.x, label.y),
            (1.03, y),
            textcoords=ax.get_yaxis_transform(),
            color=label.color,
            fontsize=size,
            verticalalignment="center",
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "lw": 0.5,
                "alpha": 0.5,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`heights` moved as little as makes them `gap` apart, and between `low` and `high` where there is room.

    Labels that would overlap form a group around their mean (pool adjacent violators).
    """
    order = sorted(range(len(heights)), key=lambda place: -heights[place])
    groups: list[list[int]] = []

    def top(group: list[int]) -> float:
        centre = sum(heights[place] for place in group) / len(group)
        half = gap * (len(group) - 1) / 2
        return max(min(centre + half, high), low + 2 * half)

    for place in order:
        groups.append([place])
        while len(groups) > 1 and top(groups[-2]) - gap * len(groups[-2]) < top(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    placed = list(heights)
    for group in groups:
        for rank, place in enumerate(group):
            placed[place] = top(group) - gap * rank
    return placed
