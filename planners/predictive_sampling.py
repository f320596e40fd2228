"""Predictive sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_settings, check_value
from .sampling import sample_actions, select_best


@dataclass(frozen=True, kw_only=True)
class PredictiveSampling(Planner):
    """Draws candidates around the best one so far, with noise of a fixed size (Howell et al., arXiv 2212.00541).

    The paper perturbs the knots of a spline; here, noise that is correlated over environment steps keeps plans smooth.

    Attributes:
        num_samples: S, candidates an iteration; the first is the best so far.
        iterations: of a plan without a budget.
        noise_scale: standard deviation of the noise, as a share of the problem's own.
        noise_correlation: correlation of the noise of successive environment steps.
    """

    num_samples: int = 128
    iterations: int = 10
    noise_scale: float = 0.3
    noise_correlation: float = 0.7

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "noise_scale", self.noise_scale > 0, "positive")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        best, std = problem.init, self.noise_scale * problem.scale
        while True:
            candidates = sample_actions(problem, best, std, self.num_samples, self.noise_correlation)
            best, cost = select_best(candidates, problem.objective(candidates))
            yield best, cost
