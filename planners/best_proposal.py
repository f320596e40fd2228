"""No search beyond the proposals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .sampling import clamp


@dataclass(frozen=True, kw_only=True)
class BestProposal(Planner):
    """Takes the best proposal as it is, at the cost that is already known; registered as "actor".

    With ``agent.num_proposals=1``, proposals are the future by the actor's mean actions, and the rest of the last plan.
    Without proposals, it evaluates the first guess.
    """

    needs_proposal = True
    iterations = 1

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the first guess ``(B, T, F*A)`` and its cost ``(B,)``, once, whatever is left of a budget."""
        guess = clamp(problem.init, problem)
        if problem.init_cost is not None:
            yield guess, problem.init_cost
        else:
            yield guess, problem.objective(guess[:, None])[:, 0]
