"""Budgets of the episodes of one call: what one may spend does not depend on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import CEM, PLANNERS, Budget, make_planner, plan
from lwm_agent.protocols import Plan, Problem

B, T, F, A = 3, 5, 3, 7
HORIZONS = (2, 5, 3)
CHAINS = ("cem+gradient", "icem+lbfgs", "grasp+mppi", "gradient+icem+sgd", "categorical-cem+categorical-cem")
every_planner = pytest.mark.parametrize("name", [*PLANNERS, *CHAINS])


def random(seed: int, *size: int) -> Tensor:
    return 2 * torch.rand(size, generator=torch.Generator().manual_seed(seed)) - 1


class Drift:
    """Episodes whose latents ``(3, 2)`` drift from start to goal, whatever is done."""

    def __init__(self, episodes: Sequence[int]) -> None:
        self.start = torch.stack([random(10 + i, 3, 2) for i in episodes])
        self.goal = torch.stack([random(20 + i, 3, 2) for i in episodes])

    def rollout(self, actions: Tensor) -> Tensor:
        way = torch.arange(1, actions.shape[2] + 1)[:, None, None] / actions.shape[2]
        line = self.start[:, None] + way * (self.goal - self.start)[:, None]
        return line[:, None].expand(-1, actions.shape[1], -1, -1, -1)

    def step(self, latents: Tensor, actions: Tensor, loss: object, *loss_inputs: Tensor) -> tuple[Tensor, Tensor]:
        return latents, torch.sign(actions) * latents.flatten(3).sum(dim=3)[..., None]


def make_problem(episodes: Sequence[int], horizons: Sequence[int], proposals: int = 0) -> Problem:
    longest = max(horizons)
    targets = torch.stack([random(30 + i, T, F * A) for i in episodes])
    valid = torch.arange(T) < torch.tensor(horizons)[:, None]

    def objective(actions: Tensor) -> Tensor:
        costs = torch.zeros(actions.shape[:2])
        for t, block in enumerate(actions.unbind(2)):
            cost = (block - targets[:, None, t]).square().sum(dim=2) + torch.sin(5 * block).sum(dim=2)
            costs = costs + torch.where(valid[:, None, t], cost, 0)
        return costs

    guesses = torch.stack([random(50 + i, max(1, proposals), T, F * A) for i in episodes])[:, :, :longest]
    guesses = guesses.clamp(-0.9, 1.2) * valid[:, None, :longest, None]
    return Problem(
        objective=objective,
        init=torch.stack([random(40 + i, T, F * A) for i in episodes])[:, :longest],
        scale=torch.full((len(episodes), longest, F * A), 0.7),
        low=torch.full((F * A,), -0.9),
        high=torch.full((F * A,), 1.2),
        generators=[torch.Generator().manual_seed(i) for i in episodes],
        action_size=A,
        dynamics=Drift(episodes),
        horizons=tuple(horizons),
        step_flops=[6.0 * horizon for horizon in horizons],
        propose=(lambda: (guesses, objective(guesses))) if proposals else None,
        propose_flops=[20.0 * horizon for horizon in horizons],
    )


def assert_same(together: Plan, place: int, alone: Plan) -> None:
    own = alone.trace[:, 0]
    assert torch.equal(together.actions[place, : alone.actions.shape[1]], alone.actions[0])
    assert torch.equal(together.trace[:, place].unique_consecutive(), own.unique_consecutive())
    assert torch.equal(together.cost[place], alone.cost[0])
    assert together.rollouts[place] == alone.rollouts[0]
    assert together.flops[place] == alone.flops[0]


@every_planner
@pytest.mark.parametrize("proposals", [0, 3])
@pytest.mark.parametrize(
    "budget",
    [
        Budget(flops=9000.0),
        Budget(flops=25000.0, iterations=7),
        Budget(flops=20000.0, rollouts=300),
        Budget(flops=40000.0, rollouts=700, iterations=13),
    ],
)
def test_plan_under_a_budget_does_not_depend_on_the_episodes_beside_it(
    name: str, budget: Budget, proposals: int
) -> None:
    """A rollout of the longest plan takes two and a half times the FLOPs of the shortest."""
    flops = [10.0 * horizon for horizon in HORIZONS]
    planner = make_planner(name)
    together = plan(planner, make_problem(range(B), HORIZONS, proposals), budget, flops)
    for place, horizon in enumerate(HORIZONS):
        alone = replace(make_problem([place], [horizon], proposals), horizons=None)
        assert_same(together, place, plan(planner, alone, budget, flops[place]))
    assert budget.flops is not None
    assert all(spent <= budget.flops for spent in together.flops)


def test_an_exhausted_episode_keeps_its_plan_while_others_go_on() -> None:
    result = plan(CEM(num_samples=10, num_elites=3), make_problem(range(2), (3, 3)), Budget(flops=1000.0), [10.0, 50.0])
    assert result.rollouts == (100, 20)
    assert result.flops == (1000.0, 1000.0)
    assert len(result.trace) == 10
    assert (result.trace[2:, 1] == result.trace[1, 1]).all()
    assert result.trace[-1, 0] < result.trace[1, 0]


def test_an_episode_that_can_pay_no_iteration_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Budget\(flops=1000\.0\) is too small, 1010\.0 flops .* for any plan of CEM"):
        plan(CEM(num_samples=10, num_elites=3), make_problem(range(2), (3, 3)), Budget(flops=1000.0), [10.0, 101.0])


def test_an_episode_that_can_pay_no_proposal_is_an_error() -> None:
    problem = replace(make_problem(range(2), (3, 3), proposals=4), propose_flops=[1.0, 970.0])
    with pytest.raises(ValueError, match=r"too small, 1010\.0 flops .*num_proposals where an actor proposes"):
        plan(CEM(num_samples=10, num_elites=3), problem, Budget(flops=1000.0), 10.0)


@pytest.mark.parametrize("flops", [[1.0], [1.0, 2.0, 3.0]])
def test_flops_of_other_episodes_are_refused(flops: list[float]) -> None:
    with pytest.raises(ValueError, match=rf"flops_per_rollout must be .* each of 2 episodes, got {len(flops)}"):
        plan(CEM(), make_problem(range(2), (3, 3)), Budget(flops=1e9), flops)


@pytest.mark.parametrize("flops", [float("nan"), float("inf"), -1.0, [10.0, float("nan")]])
def test_flops_that_are_no_number_are_refused(flops: float | list[float]) -> None:
    with pytest.raises(ValueError, match="flops_per_rollout must be finite and at least 0"):
        plan(CEM(), make_problem(range(2), (3, 3)), Budget(flops=1e9), flops)


def test_time_is_checked_between_proposals_and_the_first_iteration() -> None:
    now = 0.0
    problem = make_problem(range(2), (3, 3), proposals=4)
    assert problem.propose is not None
    propose = problem.propose

    def slow() -> tuple[Tensor, Tensor]:
        nonlocal now
        now += 0.101
        return propose()

    drawn = [generator.get_state() for generator in problem.generators]
    result = plan(CEM(), replace(problem, propose=slow), Budget(seconds=0.05), clock=lambda: now)
    assert result.rollouts == (4, 4)
    assert result.trace.shape == (0, 2)
    assert result.overshoot == pytest.approx(0.051)
    for generator, state in zip(problem.generators, drawn, strict=True):  # not even random numbers were drawn
        assert torch.equal(generator.get_state(), state)
