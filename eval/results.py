"""Success rates with their intervals, as numbers and as a table; `results_file` stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..errors import UserError
from .episode import Episode


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a success rate, 95 % for the default `z` (Wilson, 1927)."""
    if not 0 <= successes <= n or n == 0:
        raise UserError(f"{successes} successes of {n} have no rate")
    rate = successes / n
    center = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Summary:
    """Averages over the episodes of one policy.

    Attributes:
        success: success rate, in [0, 1].
        ci95: its Wilson interval.
        n: episodes.
        solved_at_start: share of episodes solved before the first step.
        steps_to_success: median environment steps of the successes, None without any.
        plan_ms_p50: median milliseconds a decision and episode, None without planning.
        plan_ms_p95: 95th percentile of the same.
        rollouts: mean candidate rollouts a decision.
        flops: mean floating-point operations a decision.
        overshoot_ms: most milliseconds by which a planning call exceeded its budget.
        final_errors: mean distances to the goal at the end.
    """

    success: float
    ci95: tuple[float, float]
    n: int
    solved_at_start: float
    steps_to_success: float | None
    plan_ms_p50: float | None
    plan_ms_p95: float | None
    rollouts: float
    flops: float
    overshoot_ms: float
    final_errors: dict[str, float]


def summarize(episodes: Sequence[Episode]) -> Summary:
    """Summary of one policy's episodes."""
    successes = sum(episode.success for episode in episodes)
    steps = [episode.steps_to_success for episode in episodes if episode.steps_to_success is not None]
    plan_ms = [ms for episode in episodes for ms in episode.plan_ms]
    decisions = max(1, sum(episode.num_decisions for episode in episodes))
    names = episodes[0].final_errors if episodes else {}
    return Summary(
        ci95=wilson(successes, len(episodes)),
        success=successes / len(episodes),
        n=len(episodes),
        solved_at_start=sum(episode.solved_at_start for episode in episodes) / len(episodes),
        steps_to_success=float(np.median(steps)) if steps else None,
        plan_ms_p50=float(np.percentile(plan_ms, 50)) if plan_ms else None,
        plan_ms_p95=float(np.percentile(plan_ms, 95)) if plan_ms else None,
        rollouts=sum(episode.rollouts * episode.num_decisions for episode in episodes) / decisions,
        flops=sum(episode.flops * episode.num_decisions for episode in episodes) / decisions,
        overshoot_ms=max((episode.overshoot_ms for episode in episodes), default=0.0),
        final_errors={name: float(np.mean([episode.final_errors[name] for episode in episodes])) for name in names},
    )


def table(rows: Mapping[str, Summary], title: str | None = None) -> Table:
    """Table of one line a policy: its success beside that of the floors, and the cost of a decision."""
    overshoot = ("ms over",) if any(row.overshoot_ms > 0 for row in rows.values()) else ()
    columns = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    columns.add_column("policy", no_wrap=True)
    for name in ("success %", "95 % CI", "n", "steps", "ms p50/p95", "rollouts", "GFLOP", *overshoot):
        columns.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        columns.add_row(
            name,
            f"{100 * row.success:.1f}",
            f"{100 * row.ci95[0]:.1f}-{100 * row.ci95[1]:.1f}",
            str(row.n),
            _cell(row.steps_to_success, "g"),
            f"{_milliseconds(row.plan_ms_p50)}/{_milliseconds(row.plan_ms_p95)}",
            _cell(row.rollouts or None, ".0f"),
            _cell(row.flops / 1e9 or None, ".3g" if row.flops < 1e11 else ".0f"),
            *(_milliseconds(row.overshoot_ms) for _ in overshoot),
        )
    return columns


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _milliseconds(value: float | None) -> str:
    """Three significant digits, never in powers of ten."""
    return _cell(value, ".0f" if value is not None and value >= 100 else ".3g")
