"""Limited-memory BFGS inside the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.protocols import Problem

from .checks import check_settings, check_value
from .descent import differentiate
from .sampling import clamp, sample_actions, select_best

SUFFICIENT = 1e-4  # share of the decrease that the gradient promises (Armijo; Nocedal and Wright, 2006, section 3.1)
SHRINK = 0.3  # of the step, after one that did not suffice


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Quasi-Newton descent from several starts at once, projected to the bounds.

    The two-loop recursion (Nocedal and Wright, 2006, section 7.2) over the actions that are not held at a bound
    (two-metric projection; Bertsekas, 1982). An iteration evaluates one step of every start; where its cost does not
    decrease enough, that start tries a shorter step from the same point in the next. Each start has its own memory.

    Attributes:
        num_samples: S, starts: the first guess itself, and others around it.
        iterations: of a plan without a budget, each one forward and one backward pass.
        history: steps from which curvature is estimated.
        first_step: largest change of an action while no curvature is known, in normalised action units.
        noise_correlation: correlation of the noise of successive environment steps, in the starts.
    """

    num_samples: int = 16
    iterations: int = 20
    history: int = 8
    first_step: float = 0.1
    noise_correlation: float = 0.7

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "history", self.history >= 1, "at least 1")
        check_value(self, "first_step", self.first_step > 0, "positive")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``."""
        trial = sample_actions(problem, problem.init, problem.scale, self.num_samples, self.noise_correlation)
        point, gradient, size = trial, torch.zeros_like(trial), trial.new_ones(trial.shape[:2])
        cost = torch.full_like(size, torch.inf)
        moves = trial.new_zeros(self.history, *trial.shape)  # newest last, zero where there is none yet
        turns = moves  # changes of the gradient along them
        while True:
            found, slope = differentiate(problem.objective, trial)
            yield select_best(trial, found)
            accepted = found <= cost + SUFFICIENT * dot(gradient, trial - point)  # (B, S)
            moved = accepted[:, :, None, None]
            moves = torch.where(moved, torch.cat([moves[1:], (trial - point)[None]]), moves)
            turns = torch.where(moved, torch.cat([turns[1:], (slope - gradient)[None]]), turns)
            point, gradient = torch.where(moved, trial, point), torch.where(moved, slope, gradient)
            cost, size = torch.where(accepted, found, cost), torch.where(accepted, 1.0, SHRINK * size)
            held = ((point <= problem.low) & (gradient > 0)) | ((point >= problem.high) & (gradient < 0))
            direction = quasi_newton(gradient * ~held, moves * ~held, turns * ~held, self.first_step)
            trial = clamp(point - size[:, :, None, None] * direction, problem)


def quasi_newton(gradient: Tensor, moves: Tensor, turns: Tensor, first_step: float) -> Tensor:
    """`gradient` ``(B, S, T, F*A)`` times the inverse Hessian that `moves` and `turns`, a list of such, let suppose.

    Where they tell nothing of the curvature, the gradient is scaled to a largest element of `first_step`.
    """
    curvature, squares = dot(moves, turns), dot(turns, turns)  # (history, B, S)
    known = curvature > 1e-8 * squares  # also keeps the supposed Hessian positive
    inverse = torch.where(known, 1 / curvature, 0)
    scale = first_step / gradient.abs().amax(dim=(2, 3)).clamp_min(torch.finfo(gradient.dtype).tiny)
    left, shares = gradient, []
    for move, turn, factor in zip(reversed(moves), reversed(turns), reversed(inverse), strict=True):
        share = (factor * dot(move, left))[:, :, None, None]
        left = left - share * turn
        shares.append(share)
    for valid, length in zip(known, curvature / squares, strict=True):
        scale = torch.where(valid, length, scale)  # the newest that is known
    direction = scale[:, :, None, None] * left
    for move, turn, factor, share in zip(moves, turns, inverse, reversed(shares), strict=True):
        direction = direction + move * (share - (factor * dot(turn, direction))[:, :, None, None])
    return direction


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner products ``(..., B, S)`` of ``(..., B, S, T, F*A)`` and the like."""
    return (first * second).flatten(-2).sum(dim=-1)
