"""Gradient descent on action sequences, through the world model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.protocols import Problem

from .base import check_types, check_value, clamp, sample_actions, select_best

OPTIMIZERS: dict[str, type[torch.optim.Adam] | type[torch.optim.SGD]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Projected gradient descent from several starts at once.

    A candidate is paired with the cost at which it was evaluated, before its step: where the last step leads is never
    evaluated and never returned.

    Attributes:
        num_samples: S, starts: the first guess itself, and others around it.
        iterations: the most iterations of a plan, each one forward and one backward pass.
        lr: learning rate, in normalised action units.
        optimizer: "adam" or "sgd".
        noise_correlation: correlation of the noise of successive environment steps, in the starts.
    """

    num_samples: int = 16
    iterations: int = 20
    lr: float = 0.1
    optimizer: str = "adam"
    noise_correlation: float = 0.7

    def __post_init__(self) -> None:
        check_types(self)
        check_value(self, "num_samples", self.num_samples >= 1, "at least 1")
        check_value(self, "iterations", self.iterations >= 1, "at least 1")
        check_value(self, "lr", self.lr > 0, "positive")
        check_value(self, "optimizer", self.optimizer in OPTIMIZERS, f"one of {sorted(OPTIMIZERS)}")
        check_value(self, "noise_correlation", 0 <= self.noise_correlation < 1, "in [0, 1)")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration, before its step, and its cost ``(B,)``."""
        starts = sample_actions(problem, problem.init, problem.scale, self.num_samples, self.noise_correlation)
        candidates = starts.requires_grad_()
        # Both optimizers work element by element, so that one serves all starts of all episodes without mixing them.
        optimizer = OPTIMIZERS[self.optimizer]([candidates], lr=self.lr)
        while True:
            with torch.enable_grad():
                costs = problem.objective(candidates)
                # Not backward(), which would also leave gradients in the weights of the world model.
                (candidates.grad,) = torch.autograd.grad(costs.sum(), candidates)
            yield select_best(candidates.detach(), costs.detach())
            optimizer.step()
            with torch.no_grad():
                candidates.copy_(clamp(candidates, problem))
