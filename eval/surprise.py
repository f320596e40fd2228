"""Surprise of a world model at impossible events, beside the same clips without them: statistics, table and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Interval
from .comparison_table import TextTable
from .detection import area_under_curve, signed_rank
from .events import Frames
from .figures import FAINT, INK, color_of, new_figure, quiet_axes, save_figure
from .statistics import holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Surprise = NDArray[np.float64]
COLUMNS = 4  # of panels
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Course:
    """Surprise over time.

    Attributes:
        mean: over clips, of each judged step.
        low: lower quartile.
        high: upper quartile.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """Surprise at one kind of event.

    Attributes:
        n: clips with the event; each is its own control without it.
        episodes: different episodes that they are from.
        at_once: area under the ROC curve of the first judged step with the event.
        later: the same of the largest surprise from that step to the end of the clip.
        p_value: Wilcoxon's signed-rank test of the first step against the control, corrected for the number of events
            (Holm).
        effect: matched-pairs rank-biserial correlation of the same.
        detected: share of the events whose first step exceeds the threshold of `FALSE_ALARMS`.
        event: surprise over time with the event.
        control: the same without it.
    """

    n: int
    episodes: int
    at_once: Interval
    later: Interval
    p_value: float
    effect: float
    detected: float
    event: Course
    control: Course


def course(surprise: Surprise) -> Course:
    """The course of `surprise` ``(n, steps)``."""
    low, high = np.quantile(surprise, [0.25, 0.75], axis=0)
    return Course(*(tuple(row.tolist()) for row in (surprise.mean(0), low, high)))


def judge(event: Surprise, control: Surprise, episodes: NDArray[np.int64], first: int, threshold: float) -> Outcome:
    """The outcome of one kind of event.

    Args:
        event: surprise ``(n, steps)`` of clips with the event.
        control: surprise of the same clips without it.
        episodes: number of the episode of each clip, ``(n,)``.
        first: step that is judged first with the event.
        threshold: surprise above which an event counts as detected.
    """
    test = signed_rank(event[:, first] - control[:, first])
    return Outcome(
        n=len(event),
        episodes=len(np.unique(episodes)),
        at_once=area_under_curve(event[:, first], control[:, first], episodes),
        later=area_under_curve(event[:, first:].max(1), control[:, first:].max(1), episodes),
        p_value=test.p_value,
        effect=test.effect,
        detected=float((event[:, first] > threshold).mean()),
        event=course(event),
        control=course(control),
    )


def corrected(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """`outcomes` with p-values that are corrected for their number."""
    p_values = holm([outcome.p_value for outcome in outcomes.values()])
    return {name: replace(one, p_value=p) for (name, one), p in zip(outcomes.items(), p_values, strict=True)}


def surprise_table(outcomes: Mapping[str, Outcome], title: str) -> TextTable:
    """One line an event."""
    header = ("event", "n", "AUROC at once", "within the clip", "detected", "p", "effect", "mean", "control")
    rows = []
    for name, one in outcomes.items():
        first = len(one.event.mean) // 2 - 1  # as many steps before the event as after its first
        rows.append((
            name,
            str(one.n),
            _interval(one.at_once),
            _interval(one.later),
            f"{100 * one.detected:.0f} %",
            f"{one.p_value:.1g}",
            f"{one.effect:.2f}",
            f"{one.event.mean[first]:.3g}",
            f"{one.control.mean[first]:.3g}",
        ))  # fmt: skip
    return TextTable(title, header, tuple(rows), words=1)


def _interval(area: Interval) -> str:
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"


def draw_courses(outcomes: Mapping[str, Outcome], first: int, path: Path) -> None:
    """Draws surprise over time, a panel for each event: means, and quartiles as bands, with the event and without."""
    rows = math.ceil(len(outcomes) / COLUMNS)
    figure = new_figure(2.6 * COLUMNS, 0.4 + 1.9 * rows)
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(outcomes) :]:
        ax.set_visible(False)
    for number, (ax, (name, outcome)) in enumerate(zip(axes.flat, outcomes.items(), strict=False)):
        _draw_course(ax, outcome, first)
        ax.set_title(f"{name}: AUROC {outcome.at_once.value:.3f}", fontsize=9, color=INK, loc="left")
        if number + COLUMNS >= len(outcomes):
            ax.tick_params(labelbottom=True)
    corner = axes.flat[0].transAxes
    for height, (text, number) in zip((0.9, 0.78), (("with the event", 1), ("without", 0)), strict=True):
        axes.flat[0].text(0.98, height, text, transform=corner, fontsize=8, color=color_of(number), ha="right")
    figure.supxlabel("model steps from the event", fontsize=9, color=FAINT)
    figure.supylabel("surprise (1: usual)", fontsize=9, color=FAINT)
    save_figure(figure, path)


def _draw_course(ax: Axes, outcome: Outcome, first: int) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    steps = np.arange(len(outcome.event.mean)) - first
    for line, color in ((outcome.control, color_of(0)), (outcome.event, color_of(1))):
        ax.fill_between(steps, line.low, line.high, color=color, alpha=0.2, linewidth=0)
        ax.plot(steps, line.mean, color=color, linewidth=1.5)
    ax.axvline(-0.5, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    quiet_axes(ax)
    ax.tick_params(labelsize=8)
    ax.set_xticks([step for step in steps if step % 2 == 0])


def draw_examples(examples: Mapping[str, Frames], at: int, path: Path) -> None:
    """Draws a clip ``(K, h, w, 3)`` of each event: the frame before it, the first with it, the next and the last."""
    rows = math.ceil(len(examples) / 2)
    figure = new_figure(10, 1.25 * rows + 0.2)
    grid = figure.subplots(rows, 8, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    for number, (name, frames) in enumerate(examples.items()):
        row, first = number % rows, 4 * (number // rows)
        for place, frame in enumerate((at - 1, at, at + 1, len(frames) - 1)):
            ax = grid[row, first + place]
            ax.imshow(frames[frame], interpolation="nearest")
            ax.set_title(f"{name}, {frame - at:+d}" if place == 0 else f"{frame - at:+d}", fontsize=7, color=INK)
    save_figure(figure, path)
