from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import LBFGS, make_planner, plan
from lwm_agent.protocols import Objective, Problem

B, T, BLOCK = 3, 5, 4


def make_problem(objective: Objective, bound: float) -> Problem:
    return Problem(
        objective=objective,
        init=torch.zeros(B, T, BLOCK),
        scale=torch.full((B, T, BLOCK), 0.5),
        low=torch.full((BLOCK,), -bound),
        high=torch.full((BLOCK,), bound),
        generators=[torch.Generator().manual_seed(i) for i in range(B)],
        action_size=2,
    )


def ill_conditioned(condition: float) -> Objective:
    """Quadratics with the given condition number, turned at random, each episode with its own minimum."""
    generator = torch.Generator().manual_seed(0)
    size = T * BLOCK
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator))[0] * torch.logspace(0, 0.5, size, condition)
    target = torch.rand(B, 1, size, generator=generator) - 0.5
    return lambda actions: ((actions.flatten(2) - target) @ basis).square().sum(dim=2)


@pytest.mark.parametrize(("rival", "rates"), [("gradient", [0.3, 0.1, 0.03]), ("sgd", [1e-3, 1e-4, 5e-5])])
def test_beats_gradient_descent_on_an_ill_conditioned_quadratic(rival: str, rates: list[float]) -> None:
    objective = ill_conditioned(1e4)
    # Long enough to win clearly: at 60 iterations, by 9.7 or by 10, as the CPU rounds.
    settings: dict[str, Any] = {"num_samples": 4, "iterations": 100}
    cost = plan(LBFGS(**settings), make_problem(objective, 2.0)).cost
    for lr in rates:
        assert (10 * cost < plan(make_planner(rival, lr=lr, **settings), make_problem(objective, 2.0)).cost).all()


def test_solves_a_curved_valley() -> None:
    def rosenbrock(actions: Tensor) -> Tensor:
        x, y = actions[..., ::2], actions[..., 1::2]
        return (100 * (y - x**2) ** 2 + (1 - x) ** 2).sum(dim=(2, 3))

    result = plan(LBFGS(num_samples=8, iterations=150), make_problem(rosenbrock, 2.0))
    torch.testing.assert_close(result.actions, torch.ones(B, T, BLOCK), atol=0.02, rtol=0)


def test_minimum_at_the_bounds() -> None:
    """Many actions are held at a bound; the others still go to their minimum, which slow gradient descent finds."""
    objective = ill_conditioned(30.0)
    result = plan(LBFGS(num_samples=1, iterations=60), make_problem(objective, 0.2))
    truth = plan(make_planner("sgd", num_samples=1, iterations=3000, lr=0.03), make_problem(objective, 0.2))
    held = truth.actions.abs() == 0.2
    assert 0.2 < held.float().mean() < 0.9
    torch.testing.assert_close(result.actions, truth.actions, atol=2e-3, rtol=0)
    assert torch.equal(result.actions.abs() == 0.2, held)


def bend(depth: float) -> Callable[[Tensor], Tensor]:
    return lambda actions: (actions**4 - depth * actions**2).sum(dim=(2, 3))


def test_negative_curvature_does_not_lead_uphill() -> None:
    result = plan(LBFGS(num_samples=8, iterations=30), make_problem(bend(0.5), 2.0))
    assert (result.trace[-1] < result.trace[0]).all()
    torch.testing.assert_close(result.actions.abs(), torch.full((B, T, BLOCK), 0.5), atol=1e-2, rtol=0)


def test_failing_start_leaves_the_others_alone() -> None:
    """Memory, step and curvature are each start's own."""
    good = ill_conditioned(100.0)

    def partial(actions: Tensor) -> Tensor:
        return good(actions).masked_fill(torch.arange(actions.shape[1]) >= 2, torch.nan)

    result = plan(LBFGS(num_samples=4, iterations=30), make_problem(partial, 2.0))
    assert (result.cost < 1e-3 * result.trace[0]).all()
