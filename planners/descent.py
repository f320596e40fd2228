"""What planners that follow gradients share."""

from __future__ import annotations

import torch
from torch import Tensor

from lwm_agent.protocols import Objective, Problem

from .sampling import clamp


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


def descend(optimizer: torch.optim.Optimizer, candidates: Tensor, gradient: Tensor, problem: Problem) -> None:
    """Moves `candidates` ``(B, S, T, F*A)``, the parameter of `optimizer`, one step, and back inside the bounds."""
    candidates.grad = gradient
    optimizer.step()
    candidates.copy_(clamp(candidates, problem))
