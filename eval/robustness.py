"""Robustness: success under each shift and strength beside the success without, as numbers, table and figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..envs.variation import Strength, in_words
from .comparison_table import TextTable
from .figures import FAINT, INK, color_of, new_figure, quiet_axes, save_figure
from .results_file import Results
from .statistics import holm, paired_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
WIDTH, HEIGHT = 2.6, 1.9  # inches of a panel


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Success under one shift of one strength.

    Attributes:
        shift: name of the shift.
        strength: its strength.
        unit: what a strength counts.
        n: tasks.
        success: success rate, in [0, 1].
        ci95: its Wilson interval.
        kept: share of the success without a shift that is left; None where there was none.
        p_value: of equal rates with and without the shift, on the same tasks (exact McNemar test), corrected for the
            number of cells (Holm).
    """

    shift: str
    strength: Strength
    unit: str
    n: int
    success: float
    ci95: tuple[float, float]
    kept: float | None
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Success without a shift, and under all of them.

    Attributes:
        title: agent and tasks, in words.
        success: success rate without a shift, in [0, 1].
        ci95: its Wilson interval.
        floors: success rates of random actions and of doing nothing, without a shift.
        cells: one for each shift and strength, in the order of the study.
    """

    title: str
    success: float
    ci95: tuple[float, float]
    floors: Mapping[str, float]
    cells: tuple[Cell, ...]

    @property
    def by_shift(self) -> dict[str, list[Cell]]:
        """The cells of each shift."""
        return {
            name: [cell for cell in self.cells if cell.shift == name]
            for name in dict.fromkeys(cell.shift for cell in self.cells)
        }


def measure(
    title: str, usual: Results, shifted: Mapping[tuple[str, Strength], Results], units: Mapping[str, str]
) -> Robustness:
    """Compares evaluations on the same tasks.

    Args:
        title: agent and tasks, in words.
        usual: the evaluation without a shift.
        shifted: those under shifts, by the name of the shift and its strength.
        units: what strengths count, by the name of the shift.
    """
    base = usual.summary.success
    p_values = holm([paired_test([usual.solved], [results.solved]).p_value for results in shifted.values()])
    cells = tuple(
        Cell(
            shift=name,
            strength=strength,
            unit=units[name],
            n=results.summary.n,
            success=results.summary.success,
            ci95=results.summary.ci95,
            kept=results.summary.success / base if base > 0 else None,
            p_value=p_value,
        )
        for ((name, strength), results), p_value in zip(shifted.items(), p_values, strict=True)
    )
    floors = {name: floor.success for name, floor in usual.floors.items()}
    return Robustness(title=title, success=base, ci95=usual.summary.ci95, floors=floors, cells=cells)


def robustness_table(robustness: Robustness) -> TextTable:
    """A line for each shift and strength, below one without a shift."""
    rows = [("none", "", "", *_rate(robustness.success, robustness.ci95), "", "")]
    for cell in robustness.cells:
        kept = "-" if cell.kept is None else f"{100 * cell.kept:.0f}"
        p_value = f"{cell.p_value:.1g}" if cell.p_value < 1 else "1"
        rows.append((cell.shift, in_words(cell.strength), cell.unit, *_rate(cell.success, cell.ci95), kept, p_value))
    header = ("shift", "strength", "unit", "success %", "95 % CI", "% of usual", "p")
    return TextTable(robustness.title, header, tuple(rows), words=3)


def _rate(success: float, ci95: tuple[float, float]) -> tuple[str, str]:
    return f"{100 * success:.0f}", f"{100 * ci95[0]:.0f}-{100 * ci95[1]:.0f}"


def draw_robustness(robustness: Robustness, path: Path) -> None:
    """Draws success against the strength of each shift, a panel each; dashed is the success without."""
    shifts = robustness.by_shift
    rows = math.ceil(len(shifts) / COLUMNS)
    figure = new_figure(WIDTH * COLUMNS, 0.4 + HEIGHT * rows)
    axes = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
    for ax in axes.flat[len(shifts) :]:
        ax.set_visible(False)
    for ax, (name, cells) in zip(axes.flat, shifts.items(), strict=False):
        _draw_shift(ax, robustness, cells)
        ax.set_title(name, fontsize=9, color=INK, loc="left")
        ax.set_xlabel(cells[0].unit, fontsize=8, color=FAINT)
    figure.supylabel("success, %", fontsize=9, color=FAINT)
    save_figure(figure, path)


def _draw_shift(ax: Axes, robustness: Robustness, cells: Sequence[Cell]) -> None:
    rates = np.array([100 * cell.success for cell in cells])
    low, high = (np.array([100 * cell.ci95[side] for cell in cells]) for side in (0, 1))
    if isinstance(cells[0].strength, str):
        places = np.arange(len(cells), dtype=float)
        ax.set_xticks(places, [str(cell.strength) for cell in cells])
        ax.errorbar(places, rates, (rates - low, high - rates), fmt="o", color=color_of(0), markersize=4, linewidth=1)
    else:
        places = np.array([0.0, *(float(cell.strength) for cell in cells)])
        rates = np.array([100 * robustness.success, *rates])
        low, high = (np.array([100 * robustness.ci95[side], *bound]) for side, bound in ((0, low), (1, high)))
        ax.fill_between(places, low, high, color=color_of(0), alpha=0.2, linewidth=0)
        ax.plot(places, rates, "o-", color=color_of(0), markersize=4, linewidth=1.5)
        ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.axhline(100 * robustness.success, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    floor = 100 * max(robustness.floors.values(), default=0.0)
    ax.axhline(floor, color=color_of(1), linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set_ylim(0, 103)
    quiet_axes(ax)
    ax.tick_params(labelsize=8)


def draw_pictures(pictures: Mapping[str, Mapping[Strength, NDArray[np.uint8]]], path: Path) -> None:
    """Draws what an agent sees: a line for each shift, a picture ``(h, w, 3)`` for each strength."""
    columns = max(map(len, pictures.values()))
    half = math.ceil(len(pictures) / 2)
    figure = new_figure(2.2 * columns, 1.35 * half + 0.2)
    grid = figure.subplots(half, 2 * columns, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    for number, (name, seen) in enumerate(pictures.items()):
        row, first = number % half, columns * (number // half)
        for place, (strength, picture) in enumerate(seen.items()):
            ax = grid[row, first + place]
            ax.imshow(picture, interpolation="nearest")
            words = in_words(strength)
            ax.set_title(f"{name}\n{words}" if place == 0 else words, fontsize=7, color=INK, loc="left")
    save_figure(figure, path)
