"""Tables of a `ProbeReport`, for terminals and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .bootstrap import Interval
from .probe_scores import BEST, FRAMES, IMAGINED, PAINTED, STILL, ProbeReport, Score

REFERENCE = "LeWM"
"""Model whose published correlations stand beside those measured."""


@dataclass(frozen=True)
class Cells:
    """Text of a table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, name in enumerate(self.header):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The table in Markdown, without its title."""
        marks = [" --- " if number < 2 else " ---: " for number in range(len(self.header))]
        lines = [self.header, *self.rows]
        head, *body = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([head, f"|{'|'.join(marks)}|", *body])


def tables(report: ProbeReport) -> list[Cells]:
    """All tables of a report."""
    return [readings(report), *([horizons(report)] if report.horizon > 0 else [])]


def readings(report: ProbeReport) -> Cells:
    """Both probes on real frames, and the MLP on painted ones: a line each, quantity by quantity."""
    header = ("quantity", "probe", "R2", "r", f"r, {REFERENCE}'s paper", "median error", "p90", "where it is")
    rows = [
        [
            one.quantity,
            one.probe if one.latents == FRAMES else f"{one.probe}, as painted",
            f"{one.r2.value:.3f}",
            _interval(one.r, 3),
            _published(report, one),
            f"{_interval(one.median, 1)} {one.unit}".strip(),
            f"{one.p90.value:.1f} {one.unit}".strip(),
            _share(one),
        ]
        for quantity in report.quantities
        for latents in (FRAMES, PAINTED)
        for one in report.select(quantity=quantity, latents=latents, block=None)
        if latents == FRAMES or one.probe == BEST
    ]
    read = max(one.n for one in report.scores)
    title = (
        f"{report.checkpoint} ({report.model}), {report.env}: fitted on {report.fitted_frames} frames, "
        f"read on {read} of {report.episodes} other episodes"
    )
    return Cells(title, header, rows)


def horizons(report: ProbeReport) -> Cells:
    """Median error of the MLP along imagined rollouts: a line for each quantity, a column for each horizon."""
    blocks = [block for block in (1, 2, 3, 5, 7, 10, 15, 20) if block < report.horizon] + [report.horizon]
    header = ("quantity", "latents", *(f"{block * report.frameskip} steps" for block in blocks))
    names = {IMAGINED: "imagined", FRAMES: "of the real frame", STILL: "nothing moves"}
    rows = []
    for quantity in report.quantities:
        for latents, name in names.items():
            found = {one.block: one for one in report.select(quantity=quantity, latents=latents, probe=BEST)}
            rows.append([quantity, name, *(f"{found[block].median.value:.1f} {found[block].unit}" for block in blocks)])
    return Cells("median error along imagined rollouts", header, rows)


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
