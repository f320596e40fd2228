"""One planner after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from lwm_agent.errors import UserError
from lwm_agent.protocols import Planner, Problem

from .base import cheaper, first_guess
from .checks import check_value
from .meter import OutOfBudget


@dataclass(frozen=True, kw_only=True)
class Chain(Planner):
    """A first planner, and a second that refines the best plan of the first; `make_planner` writes it ``cem+gradient``.

    It needs what one of them needs, and its iterations are those of both. Both draw on one budget: the first takes its
    own `iterations`, or as many as are covered, the second what is left. The best plan of the first is the first
    candidate of the second, so that it is never lost.

    Attributes:
        first: the planner that searches.
        second: the planner that refines.
        spread: standard deviation of the second's first candidates, as a share of the problem's own.
    """

    first: Planner
    second: Planner
    spread: float = 0.2

    def __post_init__(self) -> None:
        number = isinstance(self.spread, int | float) and not isinstance(self.spread, bool)
        valid = number and 0 <= self.spread < float("inf")
        check_value(self, "spread", valid, "a number of at least 0")
        parts = (self.first, self.second)
        if self.first.discrete != self.second.discrete:
            names = " and ".join(type(part).__name__ for part in parts)
            raise UserError(f"Chain: of {names}, one plans discrete actions and the other continuous ones")
        if self.first.reactive or self.second.reactive:
            raise UserError("Chain: a policy that acts by itself plans nothing, so nothing can come before or after it")
        declared = {
            "iterations": sum(part.iterations for part in parts),
            "needs_proposal": any(part.needs_proposal for part in parts),
            "discrete": self.first.discrete,
        }
        for name, value in declared.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields what the first planner yields, then what the second does."""
        best = first_guess(problem)
        with suppress(OutOfBudget):
            for candidate in islice(self.first.improve(problem), self.first.iterations):
                best = cheaper(best, candidate)
                yield candidate
        if problem.spending is not None:
            problem.spending.reopen()  # what the first cannot use may be enough for the second
        spread = self.spread * problem.scale
        yield from self.second.improve(replace(problem, init=best[0], init_cost=None, scale=spread))
