"""No search at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.protocols import Problem

from .checks import check_settings
from .sampling import clamp


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """Takes the first guess as it is. With a learned proposal, that is acting by the actor alone.

    Attributes:
        iterations: of a plan: one, which looks up the cost.
    """

    needs_proposal = True

    iterations: int = 1

    def __post_init__(self) -> None:
        check_settings(self)

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the first guess ``(B, T, F*A)`` and its cost ``(B,)``."""
        guess = clamp(problem.init, problem)
        while True:
            yield guess, problem.objective(guess[:, None])[:, 0]
