"""No search beyond the proposals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.protocols import Problem

from .checks import check_settings
from .sampling import clamp


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """Takes the first guess as it is: with a learned proposal, the best of the actor's imagined futures.

    With ``agent.num_proposals=1``, that is what the actor's mean actions lead to, and acting by the actor alone.

    Attributes:
        iterations: of a plan: one, which looks up the cost.
    """

    needs_proposal = True

    iterations: int = 1

    def __post_init__(self) -> None:
        check_settings(self)

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the first guess ``(B, T, F*A)`` and its cost ``(B,)``, once, whatever is left of a budget."""
        guess = clamp(problem.init, problem)
        yield guess, problem.objective(guess[:, None])[:, 0]
