"""Learned proposals beyond the best one, which is the first guess of a problem."""

from __future__ import annotations

import torch
from torch import Tensor

from lwm_agent.protocols import Problem

BEST, ALL = "best", "all"
CHOICES = (BEST, ALL)
"""Proposals that a planner uses: the best one only, or all that differ."""


def rank_proposals(proposals: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """`proposals` ``(B, P, T, F*A)`` and their `costs` ``(B, P)``, best first; the same plan again costs infinity."""
    proposals, costs = sort_plans(proposals, costs)
    others, before = proposals[:, 1:], proposals[:, :-1]
    # The same plan has the same cost, so that it follows next in order, or costs as much as the best.
    repeated = (others == before).flatten(2).all(dim=2) | (others == proposals[:, :1]).flatten(2).all(dim=2)
    return sort_plans(proposals, torch.cat([costs[:, :1], costs[:, 1:].masked_fill(repeated, torch.inf)], dim=1))


def sort_plans(plans: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """`plans` ``(B, P, T, F*A)`` and their `costs` ``(B, P)``, best first, of equal ones the first."""
    costs, order = costs.sort(dim=1, stable=True)
    return plans.take_along_dim(order[:, :, None, None], dim=1), costs


def join_proposals(problem: Problem, candidates: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """`candidates` ``(B, S, T, F*A)`` and their `costs` ``(B, S)``, and after them all proposals, at known costs."""
    if problem.proposals is None or problem.proposal_costs is None:
        return candidates, costs
    return torch.cat([candidates, problem.proposals], dim=1), torch.cat([costs, problem.proposal_costs], dim=1)


def start_from_proposals(problem: Problem, starts: Tensor) -> Tensor:
    """`starts` ``(B, S, T, F*A)``: the first guess, then as many proposals as there are, then what was there."""
    if problem.proposals is None or problem.proposal_costs is None:
        return starts
    number = min(starts.shape[1] - 1, problem.proposals.shape[1])
    usable = problem.proposal_costs[:, :number, None, None].isfinite()
    chosen = torch.where(usable, problem.proposals[:, :number], starts[:, 1 : number + 1])
    return torch.cat([starts[:, :1], chosen, starts[:, number + 1 :]], dim=1)
