"""Pictures of results in one house style, drawn in memory: no display is needed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import UserError
from ..files import replacing, write_text
from ..imports import pip_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#24292f", "#6e7781", "#d8dee4"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A53", INK)
"""Colours for any colour vision (Okabe and Ito, 2008), without their yellow, which is too pale for lines."""
TINT = "#9ecae1"
"""A pale blue: bars that are compared with one of the first colour."""
DPI, COLORS = 150, 64


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

    A PNG gets an SVG of the same name beside it. The same figure gives the same files.
    """
    path = Path(path)
    if path.suffix == ".png":
        _save_png(figure, path)
        figure.set_layout_engine("none")  # which takes longer than to draw: the SVG has that of the PNG
    if path.suffix in (".png", ".svg"):
        _save_svg(figure, path.with_suffix(".svg"))
    else:
        with replacing(path) as partial:
            figure.savefig(partial)


def _save_png(figure: Figure, path: Path) -> None:
    """Writes a PNG; drawings, which have few colours, take a third of the space with a palette of them."""
    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    picture = Image.open(drawn).convert("RGB")
    if not any(ax.images for ax in figure.axes):  # no frames of an environment
        picture = picture.quantize(COLORS, dither=Image.Dither.NONE)
    with replacing(path) as partial:
        picture.save(partial, "png", optimize=True)


def _save_svg(figure: Figure, path: Path) -> None:
    """Writes an SVG, whose words stay words and whose background is that of the page, to a hundredth of a point."""
    from matplotlib import rc_context

    drawn = BytesIO()
    # Ids follow from the salt: those of two pictures on one page must differ.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem, "font.sans-serif": ["DejaVu Sans", "Verdana"]}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", drawn.getvalue().decode("utf-8"))
    places = re.compile(r"(\.\d\d)\d+")
    write_text(path, re.sub(r' (?:d|x|y)="[^"]*"', lambda attribute: places.sub(r"\1", attribute[0]), text))


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


def log_axis(ax: Axes, name: Literal["x", "y"] = "x") -> None:
    """Gives `ax` a logarithmic axis, with labels at 1, 2 and 5 of a few decades, or at each of many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set(**{f"{name}scale": "log"})
    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = axis.get_view_interval()
    low, high = low / 1.6, high * 1.6  # at least a factor of 2.5, so that there is a label
    ax.set(**{f"{name}lim": (low, high)})
    subs = (1, 2, 5) if high / low < 400 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=50))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def label_beside(ax: Axes, label: Label, limit: float, size: float = 9) -> bool:
    """Writes `label` to the right of its point, if it ends before `limit` there, and says whether it does.

    Args:
        ax: the axes, with its final limits.
        label: the text.
        limit: of x, in data units.
        size: of the text, pt.
    """
    width = size * (1 + 0.65 * len(label.text)) * ax.figure.dpi / 72  # pixels
    (point, _), (end, _) = ax.transData.transform([(label.x, label.y), (limit, label.y)])
    if point + width > end:
        return False
    ax.annotate(
        label.text,
        (label.x, label.y),
        (0.6 * size, 0),
        textcoords="offset points",
        color=label.color,
        fontsize=size,
        verticalalignment="center",
    )
    return True


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
