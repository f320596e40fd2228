"""Tables of a `ProbeReport`, for terminals and for Markdown."""

from __future__ import annotations

from .bootstrap import Interval
from .comparison_table import TextTable
from .probe_scores import BEST, FRAMES, IMAGINED, PAINTED, STILL, ProbeReport, Score

REFERENCE = "LeWM"
"""Model whose published correlations stand beside those measured."""


def tables(report: ProbeReport) -> list[TextTable]:
    """All tables of a report."""
    return [readings(report), *([horizons(report)] if report.horizon > 0 else [])]


def readings(report: ProbeReport) -> TextTable:
    """Both probes on real frames, and the MLP on painted ones: a line each, quantity by quantity."""
    header = ("quantity", "probe", "R2", "r", f"r, {REFERENCE}'s paper", "median error", "p90", "where it is")
    rows = tuple(
        (
            one.quantity,
            one.probe if one.latents == FRAMES else f"{one.probe}, as painted",
            f"{one.r2.value:.3f}",
            _interval(one.r, 3),
            _published(report, one),
            f"{_interval(one.median, 1)} {one.unit}".strip(),
            f"{one.p90.value:.1f} {one.unit}".strip(),
            _share(one),
        )
        for quantity in report.quantities
        for latents in (FRAMES, PAINTED)
        for one in report.select(quantity=quantity, latents=latents, block=None)
        if latents == FRAMES or one.probe == BEST
    )
    read = max(one.n for one in report.scores)
    title = (
        f"{report.checkpoint} ({report.model}), {report.env}: fitted on {report.fitted_frames} frames, "
        f"read on {read} of {report.episodes} other episodes"
    )
    return TextTable(title, header, rows, words=2)


def horizons(report: ProbeReport) -> TextTable:
    """Median error of the MLP along imagined rollouts: a line for each quantity, a column for each horizon."""
    blocks = [block for block in (1, 2, 3, 5, 7, 10, 15, 20) if block < report.horizon] + [report.horizon]
    header = ("quantity", "latents", *(f"{block * report.frameskip} steps" for block in blocks))
    names = {IMAGINED: "imagined", FRAMES: "of the real frame", STILL: "nothing moves"}
    rows = []
    for quantity in report.quantities:
        for latents, name in names.items():
            found = {one.block: one for one in report.select(quantity=quantity, latents=latents, probe=BEST)}
            errors = (found[block].median for block in blocks)
            unit = found[blocks[0]].unit
            rows.append((quantity, name, *(f"{error.value:.1f} {unit}" for error in errors)))
    return TextTable("median error along imagined rollouts", header, tuple(rows), words=2)


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _published(report: ProbeReport, score: Score) -> str:
    pair = report.published.get(score.quantity, {}).get(REFERENCE)
    if pair is None or score.latents != FRAMES:
        return ""
    return f"{pair[0 if score.probe == 'linear' else 1]:.3f}"


def _share(score: Score) -> str:
    """Share of frames within the tolerance, such as "93 % within 15 px"."""
    if score.within is None:
        return ""
    return f"{100 * score.within.value:.0f} % within {score.tolerance:g} {score.unit}"
