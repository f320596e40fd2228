"""Cross-entropy method for discrete actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_elites, check_settings, check_value
from .horizons import by_horizon, draw_episodes, zero_padding
from .sampling import select_elites


@dataclass(frozen=True, kw_only=True)
class CategoricalCEM(Planner):
    """Cross-entropy method over one-hot actions: each environment step has a categorical distribution of its own.

    It is refitted to the share that each action has among the elites (Rubinstein, 1999). In a block, as in the bounds
    of a problem, an action that is taken is the upper bound of its number and one that is not the lower. Beyond an
    episode's own horizon, where other planners have zeros, blocks take action 0: a model accepts one-hot blocks only.

    Attributes:
        num_samples: S, candidates an iteration; the first takes the likeliest actions.
        num_elites: K, cheapest candidates to which the distributions are refitted.
        iterations: of a plan without a budget.
        exploration: share of the uniform distribution in the first iteration; the remainder is the first guess.
        smoothing: share of the uniform distribution in all other iterations, so that no action is ever given up.
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
            chances = _blend(_mean_shares(problem, elites), self.smoothing)
            yield best, costs[:, 0]


def _shares(problem: Problem, blocks: Tensor) -> Tensor:
    """Share of each action in `blocks` ``(..., T, F*A)``: ``(..., T*F, A)``, of sum 1."""
    span = (problem.high - problem.low).clamp_min(1e-6)
    shares = ((blocks - problem.low) / span).clamp(0, 1)
    shares = shares.unflatten(-1, (-1, problem.action_size)).flatten(-3, -2)
    return _blend(shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-6), 0.0)


def _mean_shares(problem: Problem, elites: Tensor) -> Tensor:
    """Mean share of each action ``(B, T*F, A)`` in `elites` ``(B, K, T, F*A)``."""

    def mean(blocks: Tensor) -> tuple[Tensor]:
        return (_shares(problem, blocks).mean(dim=1).reshape(len(blocks), *blocks.shape[2:]),)

    (blocks,) = by_horizon(problem, mean, elites)
    return blocks.reshape(len(blocks), -1, problem.action_size)


def _blend(shares: Tensor, uniform: float) -> Tensor:
    """Mixture of `shares` ``(..., A)`` and a share `uniform` of equal ones; all are equal where `shares` are zero."""
    missing = 1 - shares.sum(dim=-1, keepdim=True)
    return (1 - uniform) * (shares + missing / shares.shape[-1]) + uniform / shares.shape[-1]


def _sample(problem: Problem, chances: Tensor, num_samples: int) -> Tensor:
    """Candidates ``(B, S, T, F*A)`` drawn by `chances` ``(B, T*F, A)``; candidate 0 takes the likeliest actions."""
    frameskip = problem.init.shape[2] // problem.action_size

    def draw(generator: torch.Generator, horizon: int) -> Tensor:
        size = (num_samples, horizon * frameskip, 1)
        return torch.rand(size, generator=generator, device=chances.device, dtype=chances.dtype)

    drawn = draw_episodes(problem, draw, (num_samples, chances.shape[1], 1), dim=-2)
    passed = chances.cumsum(dim=-1)[:, None] <= drawn  # (B, S, T*F, A)
    choices = passed.sum(dim=-1).clamp_max(problem.action_size - 1)
    choices[:, 0] = chances.argmax(dim=-1)
    return _take(problem, choices)


def _take(problem: Problem, choices: Tensor) -> Tensor:
    """Blocks ``(B, ..., T, F*A)`` that take the actions of the indices `choices` ``(B, ..., T*F)``."""
    frameskip = problem.init.shape[2] // problem.action_size
    choices = zero_padding(choices.unflatten(-1, (-1, frameskip)), problem).flatten(-2)
    taken = torch.nn.functional.one_hot(choices, problem.action_size).bool()
    blocks = taken.reshape(*choices.shape[:-1], problem.init.shape[1], -1)
    return torch.where(blocks, problem.high, problem.low)
