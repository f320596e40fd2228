"""Model-predictive path integral control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_settings, check_value
from .horizons import by_horizon
from .sampling import clamp, sample_actions, select_best


@dataclass(frozen=True, kw_only=True)
class MPPI(Planner):
    """Path integral control: the mean of all candidates, weighted by exp(-cost / temperature) (arXiv 1509.01149).

    As in TD-MPC2 (arXiv 2310.16828), the standard deviation is refitted with the same weights, so that the search
    narrows. In the first iteration, the first guess is evaluated twice: as the mean and as the best.

    Attributes:
        num_samples: S, candidates an iteration; the first is the mean itself.
        iterations: of a plan without a budget.
        temperature: of the weights, in units of the distance from the best to the median cost, whatever the cost's own
            unit: towards 0 the best candidate takes all, towards infinity all count alike.
        noise_correlation: correlation of the noise of successive environment steps.
        min_std: lower bound of the refitted standard deviation, in normalised action units.
    """

    num_samples: int = 128
    iterations: int = 10
    temperature: float = 0.2
    noise_correlation: float = 0.7
    min_std: float = 0.05

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "num_samples", self.num_samples >= 2, "at least 2 (the mean and the kept best)")
        check_value(self, "temperature", self.temperature > 0, "positive")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        mean, std, best = problem.init, problem.scale, clamp(problem.init, problem)
        while True:
            candidates = sample_actions(problem, mean, std, self.num_samples, self.noise_correlation)
            candidates[:, 1] = best
            costs = problem.objective(candidates)
            weights = path_weights(costs, self.temperature)[:, :, None, None]
            mean, variance = by_horizon(problem, weighted_moments, candidates, weights)
            std = variance.sqrt().clamp_min(self.min_std)
            best, cost = select_best(candidates, costs)
            yield best, cost


def weighted_moments(candidates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(B, T, F*A)`` of `candidates` ``(B, S, T, F*A)`` by `weights` ``(B, S, 1, 1)``."""
    mean = (weights * candidates).sum(dim=1)
    return mean, (weights * (candidates - mean[:, None]).square()).sum(dim=1)


def path_weights(costs: Tensor, temperature: float) -> Tensor:
    """Weights ``(B, S)`` of candidates by their `costs` ``(B, S)``; they add up to 1, and an infinite cost has none.

    Where all costs are infinite, all weights are equal.
    """
    excess = (costs - costs.amin(dim=1, keepdim=True)).nan_to_num(nan=0.0, posinf=torch.inf)
    # The median of the finite ones, as neither outliers nor failed rollouts should set the scale. Not torch.nanmedian:
    # it has no deterministic algorithm on CUDA.
    middle = (excess.isfinite().sum(dim=1, keepdim=True) - 1) // 2
    spread = excess.sort(dim=1).values.take_along_dim(middle, dim=1)
    tiny = torch.finfo(costs.dtype).tiny  # where all costs are equal, so are all weights
    return torch.softmax(-excess / (temperature * spread).clamp_min(tiny), dim=1)
