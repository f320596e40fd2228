"""Limited-memory BFGS inside the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.protocols import Planner, Problem

from .checks import check_settings, check_value
from .descent import differentiate
from .horizons import by_horizon
from .proposals import ALL, BEST, start_from_proposals
from .sampling import clamp, sample_actions, select_best

SUFFICIENT = 1e-4  # share of the decrease that the gradient promises (Armijo; Nocedal and Wright, 2006, section 3.1)
SHRINK = 0.3  # of the step, after one that did not suffice


@dataclass(frozen=True, kw_only=True)
class LBFGS(Planner):
    """Quasi-Newton descent from several starts at once, projected to the bounds.

    The two-loop recursion (Nocedal and Wright, 2006, section 7.2) over the actions that are not held at a bound
    (two-metric projection; Bertsekas, 1982). An iteration evaluates one step of every start; where its cost does not
    decrease enough, that start tries a shorter step from the same point in the next. Each start has its own memory.

    Attributes:
        num_samples: S, starts: the first guess itself, and others around it.
        iterations: of a plan without a budget, each one forward and one backward pass.
        history: steps from which curvature is estimated.
        first_step: largest change of an action until a curvature is measured, in normalised action units.
        noise_correlation: correlation of the noise of successive environment steps, in the starts.
        proposals: "best" starts around the best proposal only; with "all", the other proposals replace as many of the
            starts around it, the best of them first.
    """

    follows_gradients = True

    num_samples: int = 16
    iterations: int = 20
    history: int = 8
    first_step: float = 0.1
    noise_correlation: float = 0.7
    proposals: str = BEST

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "history", self.history >= 1, "at least 1")
        check_value(self, "first_step", self.first_step > 0, "positive")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        trial = sample_actions(problem, problem.init, problem.scale, self.num_samples, self.noise_correlation)
        if self.proposals == ALL:
            trial = start_from_proposals(problem, trial)
        point, gradient, size = trial, torch.zeros_like(trial), trial.new_ones(trial.shape[:2])
        point_cost = torch.full_like(size, torch.inf)
        # The last steps (history, B, S, T, F*A) and their changes of the gradient: newest last, zero before the first.
        steps = trial.new_zeros(self.history, *trial.shape)
        gradient_changes = steps
        while True:
            trial_cost, trial_gradient = differentiate(problem.objective, trial)
            yield select_best(trial, trial_cost)
            (promised,) = by_horizon(problem, lambda *pair: (dot(*pair),), gradient, trial - point)
            accepted = trial_cost <= point_cost + SUFFICIENT * promised  # (B, S)
            moved = accepted[:, :, None, None]
            steps = torch.where(moved, append(steps, trial - point), steps)
            changes = append(gradient_changes, trial_gradient - gradient)
            gradient_changes = torch.where(moved, changes, gradient_changes)
            point, gradient = torch.where(moved, trial, point), torch.where(moved, trial_gradient, gradient)
            point_cost = torch.where(accepted, trial_cost, point_cost)
            size = torch.where(accepted, 1.0, SHRINK * size)
            held = ((point <= problem.low) & (gradient > 0)) | ((point >= problem.high) & (gradient < 0))
            free = ~held
            memory = ((tensor * free).transpose(0, 1) for tensor in (steps, gradient_changes))  # episodes first
            (direction,) = by_horizon(problem, self._direction, gradient * free, *memory)
            trial = clamp(point - size[:, :, None, None] * direction, problem)

    def _direction(self, gradient: Tensor, steps: Tensor, gradient_changes: Tensor) -> tuple[Tensor]:
        memory = steps.transpose(0, 1), gradient_changes.transpose(0, 1)
        return (quasi_newton(gradient, *memory, self.first_step),)


def append(memory: Tensor, newest: Tensor) -> Tensor:
    """`memory` ``(history, ...)`` without its oldest element and with the `newest`."""
    return torch.cat([memory[1:], newest[None]])


def quasi_newton(gradient: Tensor, steps: Tensor, gradient_changes: Tensor, first_step: float) -> Tensor:
    """Product ``(B, S, T, F*A)`` of the inverse Hessian and `gradient` ``(B, S, T, F*A)``, by the two-loop recursion.

    The Hessian is estimated from the last `steps` ``(history, B, S, T, F*A)`` and the `gradient_changes` along them.
    Where no pair gives a positive curvature, the gradient is scaled to a largest element of `first_step`.
    """
    curvature, squares = dot(steps, gradient_changes), dot(gradient_changes, gradient_changes)  # (history, B, S)
    usable = curvature > 1e-8 * squares  # also keeps the estimated Hessian positive
    inverse = torch.where(usable, 1 / curvature, 0)
    scale = first_step / gradient.abs().amax(dim=(2, 3)).clamp_min(torch.finfo(gradient.dtype).tiny)
    pairs = list(zip(steps, gradient_changes, inverse, strict=True))
    remainder, shares = gradient, []
    for step, change, factor in reversed(pairs):
        share = (factor * dot(step, remainder))[:, :, None, None]
        remainder = remainder - share * change
        shares.append(share)
    for valid, length in zip(usable, curvature / squares, strict=True):
        scale = torch.where(valid, length, scale)  # of the newest usable pair
    direction = scale[:, :, None, None] * remainder
    for (step, change, factor), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + step * (share - (factor * dot(change, direction))[:, :, None, None])
    return direction


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner products ``(..., S)`` of tensors ``(..., S, T, F*A)``."""
    return (first * second).flatten(-2).sum(dim=-1)
