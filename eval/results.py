"""Success rates with their intervals: as numbers, on disk and as a table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..errors import UserError
from ..files import write_text
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
    """What the episodes of one policy come to.

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


def save_results(
    directory: str | Path,
    run: Mapping[str, Any],
    episodes: Sequence[Episode],
    floors: Mapping[str, Sequence[Episode]] | None = None,
) -> Summary:
    """Writes ``results.json`` (run, summary, floors, episodes) and ``results.csv`` (one row an episode)."""
    summary = summarize(episodes)
    contents = {
        "run": run,
        "summary": asdict(summary),
        "floors": {name: asdict(summarize(floor)) for name, floor in (floors or {}).items()},
        "episodes": [asdict(episode) for episode in episodes],
    }
    write_text(Path(directory) / "results.json", json.dumps(contents, indent=1, allow_nan=False) + "\n")
    write_text(Path(directory) / "results.csv", _to_csv(episodes))
    return summary


@contextmanager
def reading(path: str | Path) -> Iterator[dict[str, Any]]:
    """The contents of a ``results.json``; what cannot be read from them raises a ValueError that names the file."""
    try:
        yield json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not a results.json, or is damaged: {error!r}") from error


def _to_csv(episodes: Sequence[Episode]) -> str:
    text = io.StringIO()
    rows = [_csv_row(episode) for episode in episodes]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(episode: Episode) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(episode).items():
        if isinstance(value, dict):
            row |= {f"{name.removesuffix('_errors')}_{key}": entry for key, entry in value.items()}
        elif name == "plan_ms":
            row["plan_ms_p50"] = float(np.median(value)) if value else None
        else:
            row[name] = int(value) if isinstance(value, bool) else value
    return row


def table(rows: Mapping[str, Summary], title: str | None = None) -> Table:
    """One line a policy: its success beside that of the floors, and what a decision of it costs."""
    columns = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns.add_column("policy", no_wrap=True)
    for name in ("success %", "95 % CI", "n", "steps", "ms p50/p95", "rollouts", "GFLOP"):
        columns.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        columns.add_row(
            name,
            f"{100 * row.success:.1f}",
            f"{100 * row.ci95[0]:.1f}-{100 * row.ci95[1]:.1f}",
            str(row.n),
            _cell(row.steps_to_success, "g"),
            f"{_cell(row.plan_ms_p50, '.3g')} / {_cell(row.plan_ms_p95, '.3g')}",
            _cell(row.rollouts or None, ".0f"),
            _cell(row.flops / 1e9 or None, ".3g"),
        )
    return columns


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
