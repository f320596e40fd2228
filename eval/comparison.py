"""Outcomes of a comparison of models: cells, rows of training seeds, and paired tests between models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from .accounting import ModelAccount
from .results import Summary, wilson
from .statistics import Discordance, holm, paired_test

PLAYED = "played"
BELOW_ROLLOUT = "below one rollout"
BELOW_PLAN = "below one plan"
FAILED = "failed"
POLICY = "policy"
"""Planner of a model that acts by its own policy, without a search: no budget applies to it."""
FLOORS, CEILING = ("random", "none"), "replay"
"""Policies without a model that stand beside the models."""
FLOOR_NAMES = {"random": "random actions", "none": "do nothing", "replay": "replay (ceiling)"}
"""Their names in tables and figures."""
SIGNIFICANT = 0.05
"""P-values below it, corrected, are called significant."""


@dataclass(frozen=True, order=True)
class Limit:
    """Compute that a decision may use.

    Attributes:
        unit: "flops", "ms", or "none" without a budget.
        value: the limit; 0 without a budget.
    """

    unit: str = "none"
    value: float = 0.0

    def __str__(self) -> str:
        """The limit in words, such as "5 GFLOP"."""
        if self.unit == "none":
            return "no budget"
        return f"{self.value / 1e9:g} GFLOP" if self.unit == "flops" else f"{self.value:g} ms"


@dataclass(frozen=True, kw_only=True)
class CellKey:
    """Place of a cell in the grid.

    Attributes:
        env: environment.
        offset: environment steps from start to goal.
        model: name of the model in tables.
        planner: planner; `POLICY` where the model acts by itself.
        limit: compute a decision.
        training_seed: number of the model's checkpoint, of several that differ in the seed of their training.
    """

    env: str
    offset: int
    model: str
    planner: str
    limit: Limit = field(default_factory=Limit)
    training_seed: int = 0

    @property
    def row(self) -> CellKey:
        """The key of all training seeds of the model together."""
        return CellKey(env=self.env, offset=self.offset, model=self.model, planner=self.planner, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Outcome of a cell.

    Attributes:
        key: its place.
        status: `PLAYED`, `BELOW_ROLLOUT`, `BELOW_PLAN` or `FAILED`.
        message: reason why it was not played.
        summary: of its episodes.
        solved: whether each task was solved, by its index.
        checkpoint: hash of the checkpoint.
        account: costs of the model.
        encode_ms: median milliseconds of encoding one frame alone.
        frames: frames encoded a decision.
    """

    key: CellKey
    status: str = PLAYED
    message: str = ""
    summary: Summary | None = None
    solved: dict[int, bool] = field(default_factory=dict)
    checkpoint: str | None = None
    account: ModelAccount | None = None
    encode_ms: float | None = None
    frames: float = 1.0

    @property
    def encode_flops(self) -> float:
        """Floating-point operations of encoding, a decision."""
        return 0.0 if self.account is None else self.frames * self.account.encode_flops


@dataclass(frozen=True)
class Row:
    """The cells of a model's training seeds, as one line of a table.

    Attributes:
        key: their place.
        cells: one for each seed.
    """

    key: CellKey
    cells: tuple[Cell, ...]

    @property
    def summaries(self) -> list[Summary]:
        """Summary of each seed that was played."""
        return [cell.summary for cell in self.cells if cell.summary is not None]

    @property
    def solved(self) -> list[dict[int, bool]]:
        """Tasks that each seed solved."""
        return [cell.solved for cell in self.cells]

    @property
    def played(self) -> bool:
        """True if all seeds were played."""
        return all(cell.status == PLAYED for cell in self.cells)

    @property
    def status(self) -> str:
        """The status of the first seed that was not played, or `PLAYED`."""
        return next((cell.status for cell in self.cells if cell.status != PLAYED), PLAYED)

    @property
    def n(self) -> int:
        """Episodes of all seeds."""
        return sum(summary.n for summary in self.summaries)

    @property
    def success(self) -> float:
        """Success rate over the episodes of all seeds, in [0, 1]."""
        return self._solved / self.n

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson interval of the episodes of all seeds together."""
        return wilson(self._solved, self.n)

    @property
    def seed_range(self) -> tuple[float, float] | None:
        """Lowest and highest success rate of a seed; None with one seed."""
        rates = [summary.success for summary in self.summaries]
        return (min(rates), max(rates)) if len(rates) > 1 else None

    @property
    def plan_flops(self) -> float:
        """Mean floating-point operations of planning, a decision."""
        return float(np.mean([summary.flops for summary in self.summaries]))

    @property
    def flops(self) -> float:
        """Mean floating-point operations of planning and encoding, a decision."""
        return self.plan_flops + float(np.mean([cell.encode_flops for cell in self.cells]))

    @property
    def plan_ms(self) -> float | None:
        """Median milliseconds of planning, a decision; the mean of the seeds' medians."""
        return _mean([summary.plan_ms_p50 for summary in self.summaries])

    @property
    def ms(self) -> float | None:
        """Milliseconds of planning and encoding, a decision."""
        encoding = _mean([None if cell.encode_ms is None else cell.frames * cell.encode_ms for cell in self.cells])
        return None if self.plan_ms is None else self.plan_ms + (encoding or 0.0)

    @property
    def _solved(self) -> int:
        return sum(round(summary.success * summary.n) for summary in self.summaries)


@dataclass(frozen=True)
class Pair:
    """Paired test of two models, each by its best planner, on the same tasks and within the same budget.

    Attributes:
        limit: the budget; None for two policies, to which none applies.
        first: row of one model.
        second: row of the other.
        test: tasks that only one of them solved, and the p-value.
        corrected: p-value corrected for the number of pairs in the comparison (Holm).
    """

    limit: Limit | None
    first: Row
    second: Row
    test: Discordance
    corrected: float


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """A comparison, ready for its tables and figures.

    Attributes:
        cells: of all models.
        floors: of policies without a model: the floors and the ceiling.
        info: command, tasks, versions and hardware (`provenance.run_info`), and settings of the comparison.
    """

    cells: tuple[Cell, ...]
    floors: tuple[Cell, ...]
    info: dict[str, Any]

    @property
    def rows(self) -> list[Row]:
        """One for each key without its training seed, in the order of the cells."""
        return rows_of(self.cells)

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the cells."""
        return list(dict.fromkeys(cell.key.model for cell in self.cells))

    @property
    def sets(self) -> list[tuple[str, int]]:
        """Environment and offset of each set of tasks."""
        return list(dict.fromkeys((cell.key.env, cell.key.offset) for cell in self.cells))

    @property
    def limits(self) -> list[Limit]:
        """Budgets, those without one last."""
        limits = dict.fromkeys(cell.key.limit for cell in self.cells if cell.key.planner != POLICY)
        return sorted(limits, key=lambda limit: (limit.unit == "none", limit)) or [Limit()]

    def floor(self, name: str, env: str, offset: int) -> Summary | None:
        """Summary of a policy without a model."""
        keys = (cell for cell in self.floors if (cell.key.model, cell.key.env, cell.key.offset) == (name, env, offset))
        return next((cell.summary for cell in keys), None)

    def best(self, env: str, offset: int, limit: Limit) -> list[Row]:
        """The best row of each model that was played there, the best model first; of equals, the cheaper."""
        chosen: dict[str, Row] = {}
        for row in sorted(self.rows, key=_merit):
            key = row.key
            if (key.env, key.offset) == (env, offset) and row.played and (key.limit == limit or key.planner == POLICY):
                chosen.setdefault(key.model, row)
        return list(chosen.values())

    def pairs(self) -> list[Pair]:
        """Tests of all pairs of models on each set of tasks within each budget; none twice."""
        found: dict[tuple[CellKey, CellKey], tuple[Limit | None, Row, Row]] = {}
        for env, offset in self.sets:
            for limit in self.limits:
                for first, second in combinations(self.best(env, offset, limit), 2):
                    reactive = first.key.planner == second.key.planner == POLICY
                    found.setdefault((first.key, second.key), (None if reactive else limit, first, second))
        tests = [paired_test(first.solved, second.solved) for _, first, second in found.values()]
        corrected = holm([test.p_value for test in tests])
        return [
            Pair(limit, first, second, test, p_value)
            for (limit, first, second), test, p_value in zip(found.values(), tests, corrected, strict=True)
        ]


def rows_of(cells: Iterable[Cell]) -> list[Row]:
    """Cells grouped by key, without regard to their training seed."""
    groups: dict[CellKey, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.key.row, []).append(cell)
    return [Row(key, tuple(group)) for key, group in groups.items()]


def _merit(row: Row) -> tuple[float, float]:
    return (-row.success, row.flops) if row.played else (1.0, 0.0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
