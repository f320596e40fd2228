"""Cross-entropy method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_elites, check_settings, check_value
from .proposals import ALL, BEST, join_proposals
from .sampling import clamp, refit, sample_actions, select_elites


@dataclass(frozen=True, kw_only=True)
class CEM(Planner):
    """Cross-entropy method: samples a Gaussian, refits it to its elites, and repeats (Rubinstein, 1999).

    Correlated noise and the kept best candidate are from iCEM (arXiv 2008.06389).

    Attributes:
        num_samples: S, candidates an iteration; the first is the mean itself, so that it can win.
        num_elites: K, cheapest candidates to which mean and standard deviation are refitted.
        iterations: of a plan without a budget.
        noise_correlation: correlation of the noise of successive environment steps.
        momentum: share of the old mean and standard deviation that is kept.
        min_std: lower bound of the refitted standard deviation, in normalised action units.
        keep_best: whether the best candidate of an iteration competes again in the next. In the first iteration, that
            is the first guess: it is evaluated twice, as the mean and as the best.
        proposals: "best" starts from the best proposal only; with "all", the others compete in the first refit at their
            known costs, without a rollout.
    """

    num_samples: int = 128
    num_elites: int = 16
    iterations: int = 5
    noise_correlation: float = 0.7
    momentum: float = 0.0
    min_std: float = 0.05
    keep_best: bool = True
    proposals: str = BEST

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "num_samples", self.num_samples >= 2, "at least 2 (the mean and the kept best)")
        check_elites(self)

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        mean, std, best = problem.init, problem.scale, clamp(problem.init, problem)
        for iteration in count():
            candidates = sample_actions(problem, mean, std, self.num_samples, self.noise_correlation)
            if self.keep_best:
                candidates[:, 1] = best
            costs = problem.objective(candidates)
            if iteration == 0 and self.proposals == ALL:
                candidates, costs = join_proposals(problem, candidates, costs)
            elites, costs = select_elites(candidates, costs, self.num_elites)
            best = elites[:, 0]
            mean, std = refit(problem, elites, mean, std, self.momentum, self.min_std)
            yield best, costs[:, 0]


@dataclass(frozen=True, kw_only=True)
class GuidedCEM(CEM):
    """`CEM` with fewer candidates and iterations, for a search near a learned proposal."""

    needs_proposal = True

    num_samples: int = 64
    num_elites: int = 8
    iterations: int = 3
