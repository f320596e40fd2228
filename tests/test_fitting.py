"""Searches that are cut to what a budget affords."""

from __future__ import annotations

from typing import Any

import pytest

from lwm_agent import Agent
from lwm_agent.eval.comparison import Limit
from lwm_agent.experiments.fitting import ITERATIONS, Prices, fit, prices_of
from lwm_agent.planners import PLANNERS, Budget, make_planner

from .test_agent import checkpoint, observations

PRICES = Prices(rollout_flops=1e9, rollout_ms=2.0, call_ms=5.0, proposal=1.5, most_proposals=16)


def test_a_budget_affords_whole_and_parts_of_rollouts() -> None:
    assert PRICES.afforded(Limit("flops", 5e8)) == 0.5
    assert PRICES.afforded(Limit("ms", 50)) == 15  # three iterations and a proposal call the model for 20 ms
    assert PRICES.afforded(Limit("ms", 10)) == 0
    assert PRICES.afforded(Limit()) == float("inf")


@pytest.mark.parametrize(
    ("planner", "rollouts", "search", "agent"),
    [
        ("cem", 1000, {}, {}),  # nothing is enlarged
        ("cem", 60, {"num_samples": 13, "num_elites": 3}, {"num_proposals": 12}),  # 60 - 13 * 1.5 = 40.5 are left
        ("gradient", 60, {"num_samples": 6}, {"num_proposals": 12}),  # each counts twice
        ("actor", 60, {}, {"num_proposals": 12}),
        ("cem", 1, {"num_samples": 2, "num_elites": 1}, {"num_proposals": 1}),
        ("cem+gradient", 60, {}, {}),
    ],
)
def test_populations_are_cut_until_three_iterations_fit(
    planner: str, rollouts: float, search: dict[str, Any], agent: dict[str, Any]
) -> None:
    assert fit(planner, {}, PRICES, Limit("flops", rollouts * 1e9)) == (search, agent)


def test_what_the_user_has_named_stays() -> None:
    assert fit("cem", {"num_samples": 100}, PRICES, Limit("flops", 6e10))[0] == {}
    assert fit("cem", {"momentum": 0.1}, PRICES, Limit("flops", 6e10))[0]["num_samples"] == 13


@pytest.mark.parametrize("planner", [name for name, kind in PLANNERS.items() if not (kind.discrete or kind.reactive)])
def test_fitted_searches_stay_within_their_budget_and_iterate(planner: str) -> None:
    prices = prices_of(Agent(checkpoint(), device="cpu", bf16=False))
    limit = 60 * prices.rollout_flops
    search, agent = fit(planner, {}, prices, Limit("flops", limit))
    fitted = Agent(
        checkpoint(), make_planner(planner, **search), budget=Budget(flops=limit), device="cpu", bf16=False, **agent
    )
    (decision,) = fitted.predict(observations(1))[1].decisions
    assert decision is not None
    assert decision.flops <= limit
    assert len(decision.trace) >= (1 if planner == "actor" else ITERATIONS)


def test_prices_are_those_of_the_agent() -> None:
    agent = Agent(checkpoint(), device="cpu", bf16=False)
    prices = prices_of(agent)
    assert prices.rollout_flops == agent.replanner.rollout_flops(5)
    assert prices.rollout_ms > 0
    assert prices.proposal is not None
    assert prices.proposal > 1  # an actor acts at each block, and no future shares its beginning
    assert prices_of(Agent(checkpoint(), proposal="none", device="cpu", bf16=False)).proposal is None
