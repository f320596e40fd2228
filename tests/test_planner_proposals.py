"""All proposals reach the planner, at their known costs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import PLANNERS, Budget, make_planner, plan
from lwm_agent.protocols import Problem

B, S, P, T, FA = 2, 7, 5, 3, 10
WITH_PROPOSALS = [name for name, planner in PLANNERS.items() if "proposals" in {item.name for item in fields(planner)}]
REFITTED = [name for name in WITH_PROPOSALS if "num_elites" in {item.name for item in fields(PLANNERS[name])}]
STARTED = [name for name in WITH_PROPOSALS if name not in REFITTED]


def random(seed: int, *size: int) -> Tensor:
    return 2 * torch.rand(size, generator=torch.Generator().manual_seed(seed)) - 1


TARGET = random(0, B, T, FA)


def objective(actions: Tensor) -> Tensor:
    return (actions - TARGET[:, None]).square().flatten(2).sum(dim=2)


class Proposed:
    """A problem with proposals, of which the objective's calls are recorded."""

    def __init__(self, proposals: Tensor, costs: Tensor | None = None) -> None:
        self.proposals = proposals
        self.costs = objective(proposals) if costs is None else costs
        self.calls: list[Tensor] = []
        self.problem = Problem(
            objective=self,
            init=torch.zeros(B, T, FA),
            scale=torch.full((B, T, FA), 0.1),
            low=torch.full((FA,), -1.0),
            high=torch.full((FA,), 1.0),
            generators=[torch.Generator().manual_seed(i) for i in range(B)],
            action_size=2,
            propose=lambda: (self.proposals, self.costs),
        )

    def __call__(self, actions: Tensor) -> Tensor:
        self.calls.append(actions.detach().clone())
        return objective(actions)


def make_proposals() -> Tensor:
    """P proposals, of which 3 is the best, then 1; 4 is 3 again."""
    proposals = random(1, B, P, T, FA)
    near = TARGET + 0.1 * random(2, B, T, FA)
    return torch.stack([proposals[:, 0], TARGET + 0.4 * proposals[:, 1], proposals[:, 2], near, near], dim=1).clamp(
        -1, 1
    )


def small(name: str, **settings: Any) -> Any:
    elites = {"num_elites": 3} if name in REFITTED else {}
    return make_planner(name, num_samples=S, iterations=2, **elites, **settings)


def test_planners_that_use_all_proposals() -> None:
    assert set(REFITTED) == {"cem", "guided", "icem"}
    assert set(STARTED) == {"gradient", "lbfgs", "sgd"}


def test_best_proposal_is_taken_at_its_known_cost() -> None:
    proposed = Proposed(make_proposals())
    result = plan(make_planner("actor"), proposed.problem)
    assert torch.equal(result.actions, proposed.proposals[:, 3])
    assert torch.equal(result.cost, proposed.costs[:, 3])
    assert result.trace.shape == (1, B)
    assert result.rollouts == (P,) * B
    assert not proposed.calls


def test_best_proposal_of_a_chain_is_refined() -> None:
    proposed = Proposed(make_proposals())
    result = plan(make_planner("actor+gradient", spread=0.0), proposed.problem)
    assert torch.equal(proposed.calls[0][:, 0], proposed.proposals[:, 3])
    assert (result.cost < proposed.costs[:, 3]).all()


def see_problem(problem: Problem) -> Problem:
    """The problem that a planner is asked."""
    seen: list[Problem] = []

    class Look(PLANNERS["cem"]):  # type: ignore[misc]
        def improve(self, problem: Problem) -> Any:
            seen.append(problem)
            return super().improve(problem)

    plan(Look(num_samples=S, num_elites=3, iterations=1), problem)
    return seen[0]


def test_proposals_are_ranked_without_repetitions() -> None:
    proposed = Proposed(make_proposals())
    seen = see_problem(proposed.problem)
    assert seen.init_cost is not None
    assert seen.proposals is not None
    assert seen.proposal_costs is not None
    assert torch.equal(seen.init, proposed.proposals[:, 3])
    assert torch.equal(seen.init_cost, proposed.costs[:, 3])
    assert torch.equal(seen.proposals[:, 0], proposed.proposals[:, 1])
    assert seen.proposals.shape == (B, P - 1, T, FA)
    assert (seen.proposal_costs.diff(dim=1) >= 0).all()
    assert (seen.proposal_costs.isinf() == torch.tensor([False, False, False, True])).all()
    for episode in range(B):
        for rank in range(3):
            assert torch.equal(objective(seen.proposals)[episode, rank], seen.proposal_costs[episode, rank])


def test_a_single_proposal_leaves_no_others() -> None:
    seen = see_problem(Proposed(make_proposals()[:, :1]).problem)
    assert seen.proposals is None
    assert seen.proposal_costs is None
    assert seen.init_cost is not None


@pytest.mark.parametrize("name", WITH_PROPOSALS)
def test_best_proposal_alone_is_the_default(name: str) -> None:
    assert small(name) == small(name, proposals="best")
    only, several = Proposed(make_proposals()[:, 3:4]), Proposed(make_proposals())
    first, second = plan(small(name), only.problem), plan(small(name), several.problem)
    assert torch.equal(first.actions, second.actions)


@pytest.mark.parametrize("name", REFITTED)
def test_proposals_are_elites_of_the_first_refit(name: str) -> None:
    """At their known costs and without a rollout, if they are better than the candidates."""
    proposals = make_proposals()
    proposals[:, 1:3] = proposals[:, 3:4] + 0.01 * torch.tensor([1.0, -1.0])[:, None, None]
    proposed = Proposed(proposals.clamp(-1, 1), torch.tensor([9.0, -2.0, -1.0, -3.0, 9.0]).expand(B, P))
    result = plan(small(name, proposals="all", min_std=0.0), proposed.problem)
    share = {"cem": 1.0, "guided": 1.0, "icem": 0.9}[name]  # without momentum
    # The best proposal, by its true cost, is no elite: the second and third best are, beside one candidate.
    candidates = proposed.calls[0]
    best = candidates.take_along_dim(objective(candidates).argmin(dim=1)[:, None, None, None], dim=1)[:, 0]
    elites = torch.stack([proposed.proposals[:, 1], proposed.proposals[:, 2], best], dim=1)
    mean = share * elites.mean(dim=1) + (1 - share) * proposed.proposals[:, 3]
    torch.testing.assert_close(proposed.calls[1][:, 0], mean)
    assert result.rollouts == (P + sum(call.shape[1] for call in proposed.calls),) * B


@pytest.mark.parametrize("name", STARTED)
@pytest.mark.parametrize("num_samples", [1, 3, S])
def test_proposals_are_starts(name: str, num_samples: int) -> None:
    noisy, proposed = Proposed(make_proposals()), Proposed(make_proposals())
    settings: dict[str, Any] = {"num_samples": num_samples, "iterations": 1}
    plan(make_planner(name, **settings), noisy.problem)
    plan(make_planner(name, proposals="all", **settings), proposed.problem)
    best_first = proposed.costs.argsort(dim=1, stable=True)[:, [0, 2, 3, 4]][:, :num_samples]  # the second is the first
    starts = proposed.calls[0]
    chosen = proposed.proposals.take_along_dim(best_first[:, :, None, None], dim=1)
    assert torch.equal(starts[:, : chosen.shape[1]], chosen)
    assert torch.equal(starts[:, 4:], noisy.calls[0][:, 4:])


@pytest.mark.parametrize("name", WITH_PROPOSALS)
def test_failed_proposals_are_not_used(name: str) -> None:
    costs = torch.tensor([torch.nan, torch.nan, torch.inf, 1.0, torch.nan]).expand(B, P)
    one, failed = Proposed(make_proposals()[:, 3:4], costs[:, 3:4]), Proposed(make_proposals(), costs)
    expected, result = (plan(small(name, proposals="all"), each.problem) for each in (one, failed))
    assert torch.equal(result.actions, expected.actions)


@pytest.mark.parametrize("name", WITH_PROPOSALS)
def test_proposals_of_a_short_plan_are_cut(name: str) -> None:
    proposed = Proposed(make_proposals())
    plan(small(name, proposals="all"), replace(proposed.problem, horizons=(3, 2)), Budget(iterations=2))
    assert all(not call[1, :, 2:].any() for call in proposed.calls)


@pytest.mark.parametrize("name", WITH_PROPOSALS)
def test_unknown_choice_of_proposals_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"proposals must be 'best' or 'all', got 'some'"):
        make_planner(name, proposals="some")
