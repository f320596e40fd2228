"""Figures of a `ProbeReport`: errors along imagined rollouts, and readings beside the truth, a panel each quantity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import FAINT, GRID, INK, Label, color_of, label_ends, new_figure, quiet_axes, save_figure
from .probe_scores import BEST, FRAMES, IMAGINED, STILL, ProbeReport, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 3.6, 2.7  # inches of a panel
MOST = 12
"""Panels of a figure: of more quantities, the first are drawn."""

LINES = {
    STILL: ("nothing moves", FAINT, ":"),
    FRAMES: ("of the frame", FAINT, "--"),
    IMAGINED: ("imagined", color_of(0), "o-"),
}
"""Name, colour and style of each line along a rollout."""


def draw_figures(report: ProbeReport, folder: Path) -> list[str]:
    """Writes the figures as PNG and SVG into `folder`; returns their names without suffix."""
    figures = {"readings": _readings(report)}
    if report.horizon > 0:
        figures["horizon"] = _horizon(report)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return list(figures)


def _panels(report: ProbeReport) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each quantity."""
    names = report.quantities[:MOST]
    columns = math.ceil(math.sqrt(len(names)))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(WIDTH * columns + 0.3, HEIGHT * lines)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, names, strict=False):
        quiet_axes(ax)
        ax.set_title(name, fontsize=10, loc="left", color=INK)
    return figure, dict(zip(names, axes, strict=False))


def _readings(report: ProbeReport) -> Figure:
    """Readings of the MLP against the truth; of several numbers, each in its colour."""
    figure, axes = _panels(report)
    for name, ax in axes.items():
        true, read = report.points[name]
        (score,) = report.select(quantity=name, latents=FRAMES, probe=BEST, block=None)
        low, high = min(map(min, true)), max(map(max, true))
        ax.plot([low, high], [low, high], color=GRID, lw=1.2, zorder=1)
        for number in range(len(true[0])):
            pairs = [[row[number] for row in side] for side in (true, read)]
            ax.plot(*pairs, "o", ms=2.2, alpha=0.45, mew=0, color=color_of(number))
        margin = 0.15 * (high - low)
        ax.set_ylim(low - margin, high + margin)
        unit = f", {score.unit}" if score.unit else ""
        ax.set_xlabel(f"truth{unit}", color=FAINT, fontsize=8)
        ax.set_ylabel(f"reading{unit}", color=FAINT, fontsize=8)
        ax.set_title(f"r {score.r.value:.3f}", fontsize=8.5, loc="right", color=FAINT)
    return figure


def _horizon(report: ProbeReport) -> Figure:
    """Median errors over the number of environment steps that were imagined, between those of two references."""
    figure, axes = _panels(report)
    for name, ax in axes.items():
        for latents, (_, color, style) in LINES.items():
            scores = report.select(quantity=name, latents=latents, probe=BEST)
            _line(ax, [one for one in scores if one.block is not None], report.frameskip, color, style)
        unit = scores[0].unit
        ax.set_ylabel(f"median error{', ' + unit if unit else ''}", color=FAINT, fontsize=8)
        ax.set_xlabel("environment steps ahead", color=FAINT, fontsize=8)
        ax.set_ylim(bottom=0)
    figure.draw_without_rendering()  # labels are placed by the size of the panels
    for name, ax in axes.items():
        labels = []
        for latents, (text, color, _) in LINES.items():
            last = report.select(quantity=name, latents=latents, probe=BEST, block=report.horizon)[0]
            labels.append(Label(report.horizon * report.frameskip, last.median.value, text, color))
        label_ends(ax, labels, size=7.5)
    return figure


def _line(ax: Axes, scores: list[Score], frameskip: int, color: str, style: str) -> None:
    """Median errors, and a band of their intervals."""
    steps = [frameskip * (score.block or 0) for score in scores]
    ax.plot(steps, [score.median.value for score in scores], style, color=color, lw=1.6, ms=3.5)
    low, high = ([getattr(score.median, end) for score in scores] for end in ("low", "high"))
    ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
