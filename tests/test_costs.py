from __future__ import annotations

import pickle

import pytest
import torch

from lwm_agent.planners import COSTS, make_cost
from lwm_agent.planners.costs import Futures

DISTANCES = torch.tensor([[[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]]])  # (B, S, T) = (1, 2, 3)
ACTIONS = torch.tensor([1.0, 3.0]).expand(1, 2, 3, 2) * torch.tensor([1.0, 2.0])[:, None, None]  # F*A = 2
LOG_STEPS = torch.tensor([[[0.5, 2.0, 1.0], [4.0, 3.0, 3.5]]])
DEVIATIONS = torch.tensor([[[1.0, 2.0, 6.0], [0.0, 0.5, 0.1]]])
CONTRASTS = torch.tensor([[[0.0, 3.0, 9.0], [7.0, 2.0, 8.0]]])
FUTURES = Futures(DISTANCES, ACTIONS, lambda: LOG_STEPS, lambda: DEVIATIONS, None, lambda: CONTRASTS)
LEARNED = ("temporal-distance", "contrast", "actor-deviation")
ON_DISTANCES = [name for name in COSTS if name not in ("control-penalty", *LEARNED)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("terminal", [2.0, 4.0]),
        ("best-step", [1.0, 4.0]),
        ("running", [2.0, 5.0]),
        ("control-penalty", [5.0, 20.0]),
        ("temporal-distance", [0.5, 3.0]),
        ("actor-deviation", [3.0, 0.2]),
        ("best-step+10*actor-deviation", [31.0, 6.0]),
        ("best-step+0.5*contrast", [1.0, 5.0]),
        ("best-step+0.1*control-penalty", [1.5, 6.0]),
        ("best-step+2*temporal-distance", [2.0, 10.0]),
        ("2*terminal+1e-1*control-penalty+running", [6.5, 15.0]),
    ],
)
def test_values(text: str, expected: list[float]) -> None:
    torch.testing.assert_close(make_cost(text)(FUTURES), torch.tensor([expected]))


@pytest.mark.parametrize("name", ON_DISTANCES)
def test_shape_and_gradient(name: str) -> None:
    distances = torch.rand(2, 11, 5, requires_grad=True)
    cost = make_cost(name)(Futures(distances, torch.zeros(2, 11, 5, 7)))
    assert cost.shape == (2, 11)
    (gradient,) = torch.autograd.grad(cost.sum(), distances)
    # When all the distances of a candidate grow alike, so does its cost.
    torch.testing.assert_close(gradient.sum(dim=2), torch.ones(2, 11))


def test_control_penalty_has_its_gradient_in_the_actions() -> None:
    actions = torch.rand(2, 11, 5, 7, requires_grad=True)
    cost = make_cost("3*control-penalty")(Futures(torch.zeros(2, 11, 5), actions))
    assert cost.shape == (2, 11)
    (gradient,) = torch.autograd.grad(cost.sum(), actions)
    torch.testing.assert_close(gradient, 6 * actions.detach() / 35)


def test_temporal_distance_has_its_gradient_in_the_steps() -> None:
    log_steps = torch.rand(2, 11, 5, requires_grad=True)
    cost = make_cost("2*temporal-distance")(Futures(torch.zeros(2, 11, 5), torch.zeros(2, 11, 5, 7), lambda: log_steps))
    (gradient,) = torch.autograd.grad(cost.sum(), log_steps)
    torch.testing.assert_close(gradient.sum(dim=2), torch.full((2, 11), 2.0))


def test_log_steps_are_computed_only_where_a_cost_needs_them() -> None:
    blind = Futures(DISTANCES, ACTIONS)
    assert not make_cost("terminal+running").asks_for_steps
    make_cost("terminal+running")(blind)
    assert make_cost("terminal+0.1*temporal-distance").asks_for_steps
    with pytest.raises(ValueError, match="lwm-agent train-heads"):
        make_cost("terminal+0.1*temporal-distance")(blind)


def test_contrasts_are_computed_only_where_a_cost_needs_them() -> None:
    assert not make_cost("terminal+actor-deviation").asks_for_contrast
    assert make_cost("terminal+0.1*contrast").asks_for_contrast
    with pytest.raises(ValueError, match=r"'contrast' needs learned heads: .* `lwm-agent train-heads`"):
        make_cost("contrast")(Futures(DISTANCES, ACTIONS))


def test_deviations_are_computed_only_where_a_cost_needs_them() -> None:
    assert not make_cost("terminal+temporal-distance").asks_for_actor
    assert make_cost("terminal+0.1*actor-deviation").asks_for_actor
    with pytest.raises(ValueError, match="needs an actor: train one with `lwm-agent train-heads`"):
        make_cost("terminal+0.1*actor-deviation")(Futures(DISTANCES, ACTIONS, lambda: LOG_STEPS))


def test_terminal_cost_needs_the_last_distance_only() -> None:
    cost = make_cost("0.5*terminal+terminal")
    assert cost.terminal_only
    assert not make_cost("terminal+0.1*control-penalty").terminal_only
    assert torch.equal(cost(Futures(DISTANCES[..., -1:], ACTIONS)), cost(Futures(DISTANCES, ACTIONS)))


def test_equal_texts_make_equal_costs() -> None:
    """Equal text, equal cost; and an agent that holds one can be sent to another process."""
    cost = make_cost("terminal+0.5*running")
    assert cost == make_cost("terminal+0.5*running")
    assert cost != make_cost("terminal+0.6*running")
    assert pickle.loads(pickle.dumps(cost)) == cost


@pytest.mark.parametrize("text", ["last", "terminal+last", "terminal+2*last", "terminal*2"])
def test_unknown_name(text: str) -> None:
    name = "2" if text == "terminal*2" else "last"
    with pytest.raises(
        ValueError, match=rf"unknown planning cost '{name}'.*'best-step', 'contrast', 'control-penalty', 'running'"
    ):
        make_cost(text)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "much"])
def test_weight_out_of_range(weight: str) -> None:
    with pytest.raises(ValueError, match=f"weight of 'terminal' must be a positive number, got '{weight}'"):
        make_cost(f"running+{weight}*terminal")
