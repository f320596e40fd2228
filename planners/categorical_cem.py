"""Cross-entropy method for discrete actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.protocols import Problem

from .checks import check_elites, check_settings, check_value
from .sampling import select_elites


@dataclass(frozen=True, kw_only=True)
class CategoricalCEM:
    """Cross-entropy method over one-hot actions: each environment step has a categorical distribution of its own.

    It is refitted to the share that each action has among the elites (Rubinstein, 1999). In a block, as in the bounds
    of a problem, an action that is taken is the upper bound of its number and one that is not the lower.

    Attributes:
        num_samples: S, candidates an iteration; the first takes the likeliest actions.
        num_elites: K, cheapest candidates to which the distributions are refitted.
        iterations: of a plan without a budget.
        exploration: share of the uniform distribution in the first one, whose rest is the problem's first guess.
        smoothing: share of it in all others: no action is ever given up.
    """

    discrete = True

    num_samples: int = 128
    num_elites: int = 16
    iterations: int = 5
    exploration: float = 0.5
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "num_samples", self.num_samples >= 2, "at least 2 (the likeliest and the kept best)")
        check_elites(self)
        for name in ("exploration", "smoothing"):
            check_value(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        chances = _blend(_shares(problem, problem.init), self.exploration)
        best = _take(problem, chances.argmax(dim=-1))
        while True:
            candidates = _sample(problem, chances, self.num_samples)
            candidates[:, 1] = best
            elites, costs = select_elites(candidates, problem.objective(candidates), self.num_elites)
            best = elites[:, 0]
            chances = _blend(_shares(problem, elites).mean(dim=1), self.smoothing)
            yield best, costs[:, 0]


def _shares(problem: Problem, blocks: Tensor) -> Tensor:
    """How much of each action there is in `blocks` ``(..., T, F*A)``: ``(..., T*F, A)``, of sum 1."""
    span = (problem.high - problem.low).clamp_min(1e-6)
    shares = ((blocks - problem.low) / span).clamp(0, 1)
    shares = shares.unflatten(-1, (-1, problem.action_size)).flatten(-3, -2)
    return _blend(shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-6), 0.0)


def _blend(shares: Tensor, uniform: float) -> Tensor:
    """`shares` ``(..., A)`` with so much of the uniform distribution, and all of it where they are nothing."""
    missing = 1 - shares.sum(dim=-1, keepdim=True)
    return (1 - uniform) * (shares + missing / shares.shape[-1]) + uniform / shares.shape[-1]


def _sample(problem: Problem, chances: Tensor, num_samples: int) -> Tensor:
    """Candidates ``(B, S, T, F*A)`` drawn by `chances` ``(B, T*F, A)``; candidate 0 takes the likeliest actions."""
    size = (num_samples, chances.shape[1], 1)
    drawn = [torch.rand(size, generator=generator, device=chances.device) for generator in problem.generators]
    below = chances.cumsum(dim=-1)[:, None] <= torch.stack(drawn)  # (B, S, T*F, A)
    choices = below.sum(dim=-1).clamp_max(problem.action_size - 1)
    choices[:, 0] = chances.argmax(dim=-1)
    return _take(problem, choices)


def _take(problem: Problem, choices: Tensor) -> Tensor:
    """Blocks ``(..., T, F*A)`` that take the actions of the indices `choices` ``(..., T*F)``."""
    taken = torch.nn.functional.one_hot(choices, problem.action_size).bool()
    blocks = taken.reshape(*choices.shape[:-1], problem.init.shape[1], -1)
    return torch.where(blocks, problem.high, problem.low)
