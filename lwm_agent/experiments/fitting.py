"""Searches that are cut to what a budget affords, so that a slow model gets a small search instead of none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..agent.agent import Agent
from ..compute.device import synchronize
from ..eval.comparison import Limit
from ..planners.registry import find_planner

ITERATIONS = 3
"""Iterations of a search that its budget is to afford."""
PROPOSAL_SHARE = 1 / 3
"""Share of a budget that learned proposals may take."""
TIMED_ROLLOUTS, REPEATS = (8, 64), 10
CALLS = ITERATIONS + 1
"""Calls of a model in a plan: the iterations, and the choice of a proposal."""


@dataclass(frozen=True)
class Prices:
    """Prices of a search with one model.

    Attributes:
        rollout_flops: floating-point operations of a candidate over the horizon, its cost included.
        rollout_ms: milliseconds that one more candidate takes.
        call_ms: milliseconds that a call of the model takes, however many candidates it has.
        proposal: price of a learned proposal, in rollouts; None where there are none.
        most_proposals: number of proposals without a budget.
    """

    rollout_flops: float
    rollout_ms: float
    call_ms: float
    proposal: float | None
    most_proposals: int

    def afforded(self, limit: Limit) -> float:
        """Rollouts that a plan within `limit` affords; infinitely many without a limit."""
        if limit.unit == "none":
            return float("inf")
        if limit.unit == "flops":
            return limit.value / self.rollout_flops
        return max(0.0, limit.value - CALLS * self.call_ms) / self.rollout_ms


def prices_of(agent: Agent) -> Prices:
    """Prices of the searches of `agent`."""
    replanner, horizon = agent.replanner, agent.schedule.horizon
    flops, proposal = replanner.rollout_flops(horizon), replanner.proposal
    price, most = None, 0
    if proposal is not None:
        most = proposal.num_proposals
        price = 1 + proposal.flops(horizon) / ((most + 1) * flops)
    few, many = (_call_ms(agent, rollouts) for rollouts in TIMED_ROLLOUTS)
    each = max((many - few) / (TIMED_ROLLOUTS[1] - TIMED_ROLLOUTS[0]), 1e-3 * many)
    return Prices(flops, each, max(0.0, few - TIMED_ROLLOUTS[0] * each), price, most)


@torch.no_grad()
def _call_ms(agent: Agent, rollouts: int) -> float:
    """Milliseconds of `rollouts` candidates for one episode, the fastest of `REPEATS` trials."""
    model, device, horizon = agent.replanner.model, agent.device, agent.schedule.horizon
    belief = agent.observer.begin(np.zeros((1, model.image_size, model.image_size, 3), np.uint8))
    init = belief.latent.new_zeros(1, horizon, model.block_size)
    deadline = belief.latent.new_full((1,), torch.inf)
    objective = agent.replanner.problem(belief, belief.latent, init, deadline, [torch.Generator(device)]).objective
    candidates = init.expand(1, rollouts, -1, -1)
    seconds = []
    for _ in range(1 + REPEATS):  # the first is slower
        synchronize(device)
        started = perf_counter()
        objective(candidates)
        synchronize(device)
        seconds.append(perf_counter() - started)
    return 1000 * min(seconds[1:])


def fit(planner: str, named: Mapping[str, Any], prices: Prices, limit: Limit) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a planner and of the agent with which `ITERATIONS` iterations fit into `limit`.

    Populations are cut, never enlarged: larger budgets buy more iterations. Settings that the user has `named` stay,
    and so do chains of planners.
    """
    kind, left = None if "+" in planner else find_planner(planner), prices.afforded(limit)
    if kind is None or left == float("inf"):
        return {}, {}
    agent: dict[str, Any] = {}
    if prices.proposal is not None:
        number = _between(1, left * PROPOSAL_SHARE / prices.proposal - 1, prices.most_proposals)
        agent = {} if number == prices.most_proposals else {"num_proposals": number}
        left -= (number + 1) * prices.proposal
    defaults: dict[str, Any] = {item.name: item.default for item in fields(kind)}  # type: ignore[arg-type]
    search: dict[str, Any] = {}
    if "num_samples" in defaults:
        each = ITERATIONS * (2 if kind.follows_gradients else 1)
        search["num_samples"] = _between(2, left / each, defaults["num_samples"])
    if "num_elites" in defaults:
        search["num_elites"] = _between(1, search["num_samples"] / 4, defaults["num_elites"])
    changed = {name: value for name, value in search.items() if value != defaults[name]}
    return ({} if changed.keys() & named.keys() else changed), agent


def _between(least: int, value: float, most: int) -> int:
    return int(max(least, min(value, most)))
