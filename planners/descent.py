"""Gradients of the objective, and the steps that descend along them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lwm_agent.protocols import Objective


def differentiate(objective: Objective, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Costs ``(B, S)`` of `candidates` ``(B, S, T, F*A)`` and their gradient ``(B, S, T, F*A)``.

    Where the gradient is not a number it is zero: the candidate stays where it is.
    """
    with torch.enable_grad():
        leaf = candidates.detach().requires_grad_()
        costs = objective(leaf)
        # Not backward(), which would also leave gradients in the weights of the world model.
        (gradient,) = torch.autograd.grad(costs.sum(), leaf)
    return costs.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)


class Optimizer(ABC):
    """Steps against a gradient, element by element: all starts of all episodes are served without mixing them.

    Not those of `torch.optim`, which depend on torch's default dtype and device.

    Args:
        lr: learning rate.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr

    @abstractmethod
    def step(self, actions: Tensor, gradient: Tensor) -> Tensor:
        """`actions` after one step against their `gradient`, of the same shape."""


class PlainDescent(Optimizer):
    """Steps of `lr` times the gradient."""

    def step(self, actions: Tensor, gradient: Tensor) -> Tensor:
        """`actions` after one step against their `gradient`, of the same shape."""
        return actions.add(gradient, alpha=-self.lr)


class Adam(Optimizer):
    """Adam (arXiv 1412.6980, Algorithm 1), with the operations of `torch.optim.Adam` and so with its rounding."""

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.steps = 0
        self.first: Tensor | None = None  # moments of the gradient
        self.second: Tensor | None = None

    def step(self, actions: Tensor, gradient: Tensor) -> Tensor:
        """`actions` after one step against their `gradient`, of the same shape."""
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(actions), torch.zeros_like(actions)
        self.steps += 1
        self.first = self.first.lerp(gradient, 1 - self.beta1)
        self.second = self.second.mul(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        step_size = self.lr / (1 - self.beta1**self.steps)
        denominator = (self.second.sqrt() / (1 - self.beta2**self.steps) ** 0.5).add_(self.epsilon)
        return actions.addcdiv(self.first, denominator, value=-step_size)
