"""No search beyond the proposals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.protocols import Problem

from .sampling import clamp


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """Takes the first guess as it is: with a learned proposal, the best of the futures that were proposed.

    With ``agent.num_proposals=1``, those are what the actor's mean actions lead to, and the rest of the last plan.
    """

    needs_proposal = True
    iterations = 1  # which looks up the cost

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the first guess ``(B, T, F*A)`` and its cost ``(B,)``, once, whatever is left of a budget."""
        guess = clamp(problem.init, problem)
        yield guess, problem.objective(guess[:, None])[:, 0]
