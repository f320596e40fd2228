from __future__ import annotations

import pytest
import torch

from lwm_agent.planners import COSTS, make_cost

DISTANCES = torch.tensor([[[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]]])  # (B, S, T) = (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "expected"), [("terminal", [2.0, 4.0]), ("best-step", [1.0, 4.0]), ("running", [2.0, 5.0])]
)
def test_values(name: str, expected: list[float]) -> None:
    assert make_cost(name)(DISTANCES).tolist() == [expected]


@pytest.mark.parametrize("name", COSTS)
def test_shape_and_gradient(name: str) -> None:
    distances = torch.rand(2, 11, 5, requires_grad=True)
    cost = make_cost(name)(distances)
    assert cost.shape == (2, 11)
    (gradient,) = torch.autograd.grad(cost.sum(), distances)
    # When all the distances of a candidate grow alike, so does its cost.
    torch.testing.assert_close(gradient.sum(dim=2), torch.ones(2, 11))


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown planning cost 'last'.*'best-step', 'running', 'terminal'"):
        make_cost("last")
