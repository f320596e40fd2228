"""Gradient descent on action sequences, through the world model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_settings
from .descent import Adam, Optimizer, PlainDescent, differentiate
from .proposals import ALL, BEST, start_from_proposals
from .sampling import clamp, sample_actions, select_best


@dataclass(frozen=True, kw_only=True)
class Gradient(Planner):
    """Projected gradient descent from several starts at once, with Adam (arXiv 1412.6980).

    A candidate is paired with the cost at which it was evaluated, before its step: where the last step leads is never
    evaluated and never returned.

    Attributes:
        num_samples: S, starts: the first guess itself, and others around it.
        iterations: of a plan without a budget, each one forward and one backward pass.
        lr: learning rate, in normalised action units.
        noise_correlation: correlation of the noise of successive environment steps, in the starts.
        proposals: "best" starts around the best proposal only; with "all", the other proposals replace as many of the
            starts around it, the best of them first.
    """

    follows_gradients = True

    optimizer: ClassVar[type[Optimizer]] = Adam

    num_samples: int = 16
    iterations: int = 10
    lr: float = 0.1
    noise_correlation: float = 0.7
    proposals: str = BEST

    def __post_init__(self) -> None:
        check_settings(self)

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration, before its step, and its cost ``(B,)``."""
        candidates = sample_actions(problem, problem.init, problem.scale, self.num_samples, self.noise_correlation)
        if self.proposals == ALL:
            candidates = start_from_proposals(problem, candidates)
        optimizer = self.optimizer(self.lr)
        while True:
            costs, gradient = differentiate(problem.objective, candidates)
            yield select_best(candidates, costs)
            candidates = clamp(optimizer.step(candidates, gradient), problem)


@dataclass(frozen=True, kw_only=True)
class SGD(Gradient):
    """`Gradient` with plain steps against the gradient, which depend on the unit of the cost.

    Attributes:
        lr: learning rate, in normalised action units per unit of the gradient.
    """

    optimizer = PlainDescent

    lr: float = 1.0
