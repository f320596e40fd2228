"""Random shooting, the baseline that every other planner has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_settings
from .sampling import sample_actions, select_best


@dataclass(frozen=True, kw_only=True)
class RandomShooting(Planner):
    """Draws fresh candidates around the first guess at each iteration, and learns nothing from the last ones.

    Attributes:
        num_samples: S, candidates an iteration; the first is the first guess itself.
        iterations: of a plan without a budget.
        noise_correlation: correlation of the noise of successive environment steps.
    """

    num_samples: int = 128
    iterations: int = 10
    noise_correlation: float = 0.7

    def __post_init__(self) -> None:
        check_settings(self)

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        while True:
            candidates = sample_actions(problem, problem.init, problem.scale, self.num_samples, self.noise_correlation)
            yield select_best(candidates, problem.objective(candidates))
