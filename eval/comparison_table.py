"""Tables of a comparison, as text that Markdown and HTML share: who wins where, cells, models, pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .comparison import (
    CEILING,
    FLOOR_NAMES,
    FLOORS,
    PLAYED,
    POLICY,
    SIGNIFICANT,
    Cell,
    Limit,
    ModelComparison,
    Pair,
    Row,
)
from .report import plain_text
from .results import Summary


@dataclass(frozen=True)
class TextTable:
    """A table of plain text, not escaped.

    Attributes:
        caption: one sentence on what it shows.
        header: names of the columns.
        rows: its lines.
        words: number of columns from the left that hold words; the others hold numbers.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int


def markdown(comparison: ModelComparison) -> str:
    """All tables as a Markdown document."""
    parts = ["# Comparison of models", summary_sentence(comparison)]
    parts += [markdown_of(table) for table in all_tables(comparison)]
    return "\n\n".join(parts) + "\n"


def markdown_of(table: TextTable) -> str:
    """A table in Markdown, below its caption; the caption alone where it has no rows."""
    caption = f"**{table.caption}**"
    return f"{caption}\n\n{markdown_rows(table)}" if table.rows else caption


def markdown_rows(table: TextTable) -> str:
    """A table in Markdown, without its caption."""
    lines = [table.header, ["---" if column < table.words else "---:" for column in range(len(table.header))]]
    lines += [[plain_text(value) for value in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def all_tables(comparison: ModelComparison) -> list[TextTable]:
    """The tables in the order of the documents."""
    return [
        headline_table(comparison),
        *(cell_table(comparison, env, offset) for env, offset in comparison.sets),
        reason_table(comparison),
        model_table(comparison),
        pair_table(comparison),
    ]


def summary_sentence(comparison: ModelComparison) -> str:
    """One sentence on how many differences are significant."""
    pairs = comparison.pairs()
    if not pairs:
        return "There is one model alone: nothing is compared."
    significant = sum(pair.corrected < SIGNIFICANT for pair in pairs)
    tests = f"{len(pairs)} paired tests" if len(pairs) > 1 else "1 paired test"
    if significant == 0:
        return f"No difference between models is significant in {tests} (Holm-corrected p < {SIGNIFICANT:g})."
    verb = "difference is" if significant == 1 else "differences are"
    return f"{significant} {verb} significant in {tests} (Holm-corrected p < {SIGNIFICANT:g})."


def headline_table(comparison: ModelComparison) -> TextTable:
    """The best model on each set of tasks within each budget, and whether that is more than chance."""
    pairs, rows = comparison.pairs(), []
    for env, offset in comparison.sets:
        for limit in comparison.limits:
            best = comparison.best(env, offset, limit)
            floors = [comparison.floor(name, env, offset) for name in (*FLOORS, CEILING)]
            if best:
                leader = (best[0].key.model, row_planner(best[0]), percent(best[0].success), _interval(best[0].ci95))
            else:
                leader = ("-", "-", "-", "-")
            verdict = verdict_of(best, pairs, limit, floors[:2])
            rows.append((env, str(offset), str(limit), verdict, *leader, *map(_rate, floors)))
    return TextTable(
        "Who wins where: the best model of each column of compute, with its best planner.",
        ("env", "offset", "budget", "verdict", "model", "planner", "success %", "95 % CI", "random %", "nothing %",
         "replay %"),
        tuple(rows),
        6,
    )  # fmt: skip


def verdict_of(best: Sequence[Row], pairs: Iterable[Pair], limit: Limit, floors: Sequence[Summary | None]) -> str:
    """Words on the first of the `best` rows of each model: ahead of the others, or not measurably."""
    if not best:
        return "no model affords a plan"
    leader = best[0]
    floor = max((summary.success for summary in floors if summary is not None), default=0.0)
    if leader.ci95[0] <= floor:
        return "none is measurably above the floors"
    if len(best) == 1:
        return f"only {leader.key.model} was played"
    # Two policies are compared once, for all budgets.
    level = {
        pair.second.key.model
        for pair in pairs
        if pair.first.key == leader.key and pair.limit in (limit, None) and pair.corrected >= SIGNIFICANT
    }
    others = [row.key.model for row in best[1:] if row.key.model in level]
    if not others:
        return f"{leader.key.model} is ahead of all others"
    return f"{leader.key.model} leads, not significantly ahead of {_listed(others)}"


def cell_table(comparison: ModelComparison, env: str, offset: int) -> TextTable:
    """All rows of one set of tasks, then the floors and the ceiling."""
    rows = [row for row in comparison.rows if (row.key.env, row.key.offset) == (env, offset)]
    lines = [_row(row) for row in rows]
    for name in (*FLOORS, CEILING):
        summary = comparison.floor(name, env, offset)
        if summary is not None:
            steps = number(summary.steps_to_success, "g")
            lines.append((FLOOR_NAMES[name], "-", "-", percent(summary.success), _interval(summary.ci95),
                          str(summary.n), "-", "-", "-", "-", "-", "-", steps))  # fmt: skip
    return TextTable(
        f"{env}, goals {offset} steps ahead: every cell, its costs a decision.",
        ("model", "planner", "budget", "success %", "95 % CI", "n", "seeds %", "rollouts", "plan GFLOP",
         "encode GFLOP", "plan ms", "encode ms", "steps"),
        tuple(lines),
        3,
    )  # fmt: skip


def _row(row: Row) -> tuple[str, ...]:
    first = row.cells[0]
    start = (row.key.model, row_planner(row), "-" if row.key.planner == POLICY else str(row.key.limit))
    if not row.played:
        return (*start, row.status, *["-"] * 5, number(first.encode_flops / 1e9), "-", number(_encode_ms(first)), "-")
    seeds = row.seed_range
    steps = [summary.steps_to_success for summary in row.summaries]
    return (
        *start,
        percent(row.success),
        _interval(row.ci95),
        str(row.n),
        "-" if seeds is None else f"{percent(seeds[0])}-{percent(seeds[1])}",
        number(sum(summary.rollouts for summary in row.summaries) / len(row.summaries) or None, ".0f"),
        number(row.plan_flops / 1e9),
        number(first.encode_flops / 1e9),
        number(row.plan_ms),
        number(_encode_ms(first)),
        number(steps[0] if len(steps) == 1 else None, "g"),
    )


def reason_table(comparison: ModelComparison) -> TextTable:
    """Cells that were not played, and why."""
    cells = [cell for cell in (*comparison.floors, *comparison.cells) if cell.status != PLAYED]
    return TextTable(
        "Cells that were not played, and why." if cells else "Every cell was played.",
        ("env", "offset", "model", "seed", "planner", "budget", "status", "reason"),
        tuple(
            (cell.key.env, str(cell.key.offset), cell.key.model, str(cell.key.training_seed), cell.key.planner,
             str(cell.key.limit), cell.status, cell.message)
            for cell in cells
        ),
        8,
    )  # fmt: skip


def model_table(comparison: ModelComparison) -> TextTable:
    """Costs of each model beside its plans."""
    models: dict[tuple[str, str], list[Cell]] = {}
    for cell in comparison.cells:
        seeds = models.setdefault((cell.key.model, cell.key.env), [])
        if all(cell.key.training_seed != other.key.training_seed for other in seeds):
            seeds.append(cell)
    rows = []
    for (model, env), cells in models.items():
        account = cells[0].account
        if account is not None:
            rollout = None if account.rollout_flops is None else account.rollout_flops / 1e9
            hours = None if account.training_seconds is None else account.training_seconds / 3600
            rows.append((
                model, env, str(len(cells)), f"{account.parameters / 1e6:.2f}", str(account.tokens),
                number(account.encode_flops / 1e9), number(cells[0].encode_ms), number(rollout), number(hours),
                number(account.costs_tried, "g"),
            ))  # fmt: skip
    return TextTable(
        "The models: what they cost beside their plans.",
        ("model", "env", "seeds", "million parameters", "tokens a frame", "encode GFLOP a frame", "encode ms a frame",
         "rollout GFLOP", "training hours", "costs tried"),
        tuple(rows),
        2,
    )  # fmt: skip


def pair_table(comparison: ModelComparison) -> TextTable:
    """Paired tests of all models."""
    pairs = comparison.pairs()
    rows = tuple(
        (
            pair.first.key.env,
            str(pair.first.key.offset),
            "any" if pair.limit is None else str(pair.limit),
            f"{pair.first.key.model} {row_planner(pair.first)}",
            f"{pair.second.key.model} {row_planner(pair.second)}",
            str(pair.test.only_a),
            str(pair.test.only_b),
            f"{pair.test.p_value:.2g}",
            f"{pair.corrected:.2g}",
        )
        for pair in pairs
    )
    return TextTable(
        f"Paired exact tests on the same tasks, p-values corrected for all {len(pairs)} (Holm).",
        ("env", "offset", "budget", "first", "second", "only first", "only second", "p", "p corrected"),
        rows,
        5,
    )


def row_planner(row: Row) -> str:
    """Words for the planner of a row."""
    return "own policy" if row.key.planner == POLICY else row.key.planner


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f}"


def number(value: float | None, form: str = ".3g") -> str:
    """A number with three digits, or by another format; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if form == ".3g" and abs(value) >= 1000 else format(value, form)


def _interval(ends: tuple[float, float]) -> str:
    return f"{percent(ends[0])}-{percent(ends[1])}"


def _rate(summary: Summary | None) -> str:
    return "-" if summary is None else percent(summary.success)


def _encode_ms(cell: Cell) -> float | None:
    return None if cell.encode_ms is None else cell.frames * cell.encode_ms


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
