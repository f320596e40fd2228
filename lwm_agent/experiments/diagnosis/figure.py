"""The picture of a diagnosis: steps of the predictor, rollouts, and trials, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...eval.figures import FAINT, INK, PALETTE, new_figure, quiet_axes, save_figure
from .trials import AGENT, NOTHING, TRIALS, Trials
from .verifier import PUBLISHED, PUBLISHED_END, Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_diagnosis(verification: Verification, trials: Trials | None, folder: Path) -> None:
    """Writes ``diagnosis.png`` and ``diagnosis.svg``."""
    panels = 2 if trials is None else 3
    figure = new_figure(4.0 * panels, 3.2)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        quiet_axes(ax)
    _draw_told_apart(axes[0], verification)
    _draw_errors(axes[1], verification)
    if trials is not None:
        _draw_trials(axes[2], trials)
    save_figure(figure, folder / "diagnosis.png")


def _draw_told_apart(ax: Axes, verification: Verification) -> None:
    names = list(verification.told_apart)
    rates = list(verification.told_apart.values())
    ax.set_title("told from the recorded block, %", fontsize=10, loc="left", color=INK)
    for place, rate in enumerate(rates):
        ax.plot([place] * 2, [100 * rate.low, 100 * rate.high], color=PALETTE[0], lw=1.1, alpha=0.5)
    ax.plot(range(len(names)), [100 * rate.share for rate in rates], "o", color=PALETTE[0], ms=5)
    known = [(place, 100 * PUBLISHED[name]) for place, name in enumerate(names) if name in PUBLISHED]
    if known:
        ax.plot(*zip(*known, strict=True), "_", color=FAINT, ms=14)
        ax.annotate(
            "released LeWorldModel, Push-T", known[0], (6, -14), textcoords="offset points", fontsize=8, color=FAINT
        )
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(min(50.0, *(100 * rate.low - 5 for rate in rates)), 103)


def _draw_errors(ax: Axes, verification: Verification) -> None:
    errors = [100 * error for error in verification.error_by_block]
    ax.set_title("error of recorded plans, % of the way", fontsize=10, loc="left", color=INK)
    ax.plot(range(1, len(errors) + 1), errors, "o-", color=PALETTE[0], lw=1.8, ms=4.5)
    low, high = (100 * share for share in PUBLISHED_END)
    ax.plot([len(errors)] * 2, [low, high], color=FAINT, lw=5, alpha=0.6, solid_capstyle="butt")
    place = (len(errors), low)
    name = "released LeWorldModel,\nPush-T"
    ax.annotate(name, place, (-6, 0), textcoords="offset points", ha="right", va="bottom", fontsize=8, color=FAINT)
    ax.set_xticks(range(1, len(errors) + 1))
    ax.set_xlabel("blocks ahead", color=FAINT)
    ax.set_ylim(0, max(22.0, 1.1 * max(errors)))


def _draw_trials(ax: Axes, trials: Trials) -> None:
    ax.set_title("tasks solved with, %", fontsize=10, loc="left", color=INK)
    names = [name for name in TRIALS if name in trials.rates][::-1]
    for place, name in enumerate(names):
        rate = trials.rates[name]
        color = PALETTE[1] if name == AGENT else FAINT if name == NOTHING else PALETTE[0]
        ax.barh(place, 100 * rate.share, color=color, height=0.6)
        ax.plot([100 * rate.low, 100 * rate.high], [place] * 2, color=INK, lw=1.0)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 102)
