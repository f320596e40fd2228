"""One planner after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from lwm_agent.errors import UserError
from lwm_agent.protocols import Planner, Problem

from .base import OutOfBudget, better, nothing_yet
from .checks import check_value


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A first planner, and a second that refines the best plan of the first; `make_planner` writes it ``cem+gradient``.

    Both draw on one budget: the first takes its own `iterations`, or as many as are covered, the second what is left.
    The best plan of the first is the first candidate of the second, so that it is never lost.

    Attributes:
        first: the planner that searches.
        second: the planner that refines.
        spread: standard deviation of the second's first candidates, as a share of the problem's own.
    """

    first: Planner
    second: Planner
    spread: float = 0.2

    def __post_init__(self) -> None:
        valid = isinstance(self.spread, int | float) and self.spread >= 0
        check_value(self, "spread", valid, "a number of at least 0")
        if getattr(self.first, "discrete", False) != getattr(self.second, "discrete", False):
            parts = " and ".join(type(part).__name__ for part in (self.first, self.second))
            raise UserError(f"Chain: of {parts}, one plans discrete actions and the other continuous ones")

    @property
    def iterations(self) -> int:
        """Of a plan without a budget: those of both."""
        return self.first.iterations + self.second.iterations

    @property
    def discrete(self) -> bool:
        """Whether both plan one-hot actions."""
        return getattr(self.first, "discrete", False)

    @property
    def needs_proposal(self) -> bool:
        """Whether one of both does."""
        return any(getattr(part, "needs_proposal", False) for part in (self.first, self.second))

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields what the first planner yields, then what the second does."""
        best = nothing_yet(problem)
        with suppress(OutOfBudget):  # what the first cannot use may be enough for the second
            for found in islice(self.first.improve(problem), self.first.iterations):
                best = better(best, found)
                yield found
        yield from self.second.improve(replace(problem, init=best[0], scale=self.spread * problem.scale))
