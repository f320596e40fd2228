"""Improved cross-entropy method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import ceil

import torch
from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_elites, check_settings, check_value
from .proposals import ALL, BEST, join_proposals
from .sampling import perturb, refit, sample_coloured_noise, select_elites


@dataclass(frozen=True, kw_only=True)
class ICEM(Planner):
    """Cross-entropy method with coloured noise, an elite memory and a shrinking population (iCEM, arXiv 2008.06389).

    The best elites of an iteration compete again in the next, at the cost that is already known. The paper also shifts
    elites from one decision to the next: a planner here remembers nothing between plans, the agent's warm start does.
    It adds the mean in the last iteration; here it is in each, as a budget may end the plan after any of them.

    Attributes:
        num_samples: S, candidates of the first iteration; the first is the mean itself.
        num_elites: K, cheapest candidates to which mean and standard deviation are refitted.
        iterations: of a plan without a budget.
        noise_beta: exponent of the noise's power spectrum over environment steps: 0 is white, 2 red.
        decay: factor by which the population shrinks from one iteration to the next, down to 2 K.
        keep_elites: share of the elites that competes again in the next iteration.
        momentum: share of the old mean and standard deviation that is kept.
        min_std: lower bound of the refitted standard deviation, in normalised action units.
        proposals: "best" starts from the best proposal only; with "all", the others compete in the first refit at their
            known costs, without a rollout.
    """

    num_samples: int = 128
    num_elites: int = 10
    iterations: int = 10
    noise_beta: float = 2.0
    decay: float = 1.25
    keep_elites: float = 0.3
    momentum: float = 0.1
    min_std: float = 0.05
    proposals: str = BEST

    def __post_init__(self) -> None:
        check_settings(self)
        check_elites(self)
        check_value(self, "noise_beta", self.noise_beta >= 0, "at least 0")
        check_value(self, "decay", self.decay >= 1, "at least 1")
        check_value(self, "keep_elites", 0 <= self.keep_elites <= 1, "in [0, 1]")

    def population(self, iteration: int) -> int:
        """Fresh candidates of an iteration, counted from 0."""
        least = min(self.num_samples, 2 * self.num_elites)
        return max(least, int(self.num_samples * self.decay**-iteration))

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` so far, after each iteration, and its cost ``(B,)``."""
        mean, std, num_kept = problem.init, problem.scale, ceil(self.keep_elites * self.num_elites)
        kept, kept_costs = mean[:, None][:, :0], mean.new_empty(len(mean), 0)
        if self.proposals == ALL:
            kept, kept_costs = join_proposals(problem, kept, kept_costs)
        for iteration in count():
            noise = sample_coloured_noise(problem, self.population(iteration), self.noise_beta)
            candidates = perturb(problem, mean, std, noise)
            costs = torch.cat([problem.objective(candidates), kept_costs], dim=1)
            elites, costs = select_elites(torch.cat([candidates, kept], dim=1), costs, self.num_elites)
            kept, kept_costs = elites[:, :num_kept], costs[:, :num_kept]
            mean, std = refit(problem, elites, mean, std, self.momentum, self.min_std)
            yield elites[:, 0], costs[:, 0]
