"""An observer of the search: sees every candidate and its cost, and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import plan

from .test_planners import ALL, DISCRETE, Recorder, make_problem, make_small


@pytest.mark.parametrize("name", [name for name in ALL if name not in DISCRETE])
def test_a_watch_sees_every_candidate_and_changes_nothing(name: str) -> None:
    problem, seen = make_problem(), list[tuple[Tensor, Tensor]]()
    recorder = Recorder(problem.objective)
    plain = plan(make_small(name), make_problem())
    watched = plan(
        make_small(name),
        replace(problem, objective=recorder),
        watch=lambda actions, costs: seen.append((actions.clone(), costs.clone())),
    )
    assert torch.equal(watched.actions, plain.actions)
    assert watched.rollouts == plain.rollouts
    assert len(seen) == len(recorder.calls)
    for (actions, costs), called in zip(seen, recorder.calls, strict=True):
        assert not actions.requires_grad
        assert torch.equal(actions, called)
        assert torch.allclose(costs, problem.objective(actions))


def test_proposals_come_first() -> None:
    problem, seen = make_problem(), list[tuple[Tensor, Tensor]]()
    proposals = torch.rand(2, 3, *problem.init.shape[1:], generator=torch.Generator().manual_seed(9))
    problem = replace(problem, propose=lambda: (proposals, problem.objective(proposals)))
    plan(make_small("cem"), problem, watch=lambda actions, costs: seen.append((actions.clone(), costs.clone())))
    assert torch.equal(seen[0][0], proposals)
    assert torch.equal(seen[0][1], problem.objective(proposals))
    assert len(seen) == 1 + 4
