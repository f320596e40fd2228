"""Replanning: one planning call for all episodes whose last plan is used up."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compute.device import autocast
from ..models import WorldModel
from ..models.base import select
from ..planners import Budget, plan
from ..planners.costs import WeightedSum
from ..planners.meter import Watch
from ..protocols import Belief, GoalActor, Plan, Planner, Problem
from .objective import ModelObjective
from .observer import Observer
from .proposal import ActorProposal
from .state import AgentState, Candidates, Decision


@dataclass(frozen=True)
class Replanner:
    """Poses planning problems and has them solved.

    Attributes:
        observer: gives the beliefs, and the schedule.
        model: imagines the futures.
        planner: solves the problems.
        cost: planning cost of a future.
        budget: limit of one call.
        actor: a learned actor, where there is one.
        proposal: first guesses, where there are learned ones.
        proposal_std: standard deviation of the first candidates around them, normalised.
        max_rollouts: candidate rollouts that are imagined at once.
        keep_imagined: whether decisions hold what the plans were imagined to lead to, and the candidates of the search.
    """

    observer: Observer
    model: WorldModel
    planner: Planner
    cost: WeightedSum
    budget: Budget
    actor: GoalActor | None
    proposal: ActorProposal | None
    proposal_std: float
    max_rollouts: int
    keep_imagined: bool = False

    def plan(self, state: AgentState, rows: NDArray[np.intp]) -> AgentState:
        """The state with new plans for the episodes `rows` ``(n,)``, made in one call."""
        if len(rows) == 0:
            return replace(state, decisions=(None,) * len(state))
        schedule, ages = self.observer.schedule, state.ages[rows]
        horizons = schedule.horizons(ages)
        place, phase = self.observer.places(state, rows)
        deadline = torch.from_numpy(schedule.blocks_left(ages)).float().to(self.observer.device)
        problem = self.problem(
            select(state.beliefs, (place, phase)),
            state.goal[place],
            self._warm_start(state.plan[place], horizons),
            deadline,
            self._generators(state, rows),
            horizons.tolist(),
        )
        flops = [self.rollout_flops(own) for own in horizons.tolist()]
        tried: list[tuple[Tensor, Tensor]] = []
        result = plan(self.planner, problem, self.budget, flops, watch=_keep(tried) if self.keep_imagined else None)
        imagined: Sequence[Tensor | None] = [None] * len(rows)
        if self.keep_imagined:
            imagined = self._imagined(select(state.beliefs, (place, phase)), result.actions, horizons.tolist())
        planned = result.actions.unflatten(2, (schedule.frameskip, -1)).flatten(1, 2)  # (n, T*F, A)
        missing = schedule.horizon * schedule.frameskip - planned.shape[1]
        planned = torch.nn.functional.pad(planned, (0, 0, 0, missing))
        num_plans, wait = state.num_plans.copy(), state.steps_until_replan.copy()
        num_plans[rows] += 1
        wait[rows] = schedule.steps_to_execute(ages)
        return replace(
            state,
            plan=state.plan.index_put((place,), planned),
            num_plans=num_plans,
            steps_until_replan=wait,
            decisions=_decisions(len(state), rows, result, imagined, _searches(tried, horizons.tolist())),
        )

    @torch.no_grad()
    def _imagined(self, belief: Belief, actions: Tensor, horizons: Sequence[int]) -> list[Tensor]:
        """Latents ``(T, *Z)`` that each of the plans ``(n, T, F*A)`` leads to, over its own horizon."""
        with autocast(self.observer.device, self.observer.bf16):
            latents = self.model.rollout(belief, actions[:, None])[:, 0].float()
        return [own[:blocks] for own, blocks in zip(latents, horizons, strict=True)]

    def problem(
        self,
        belief: Belief,
        goal: Tensor,
        init: Tensor,
        deadline: Tensor,
        generators: Sequence[torch.Generator],
        horizons: Sequence[int] | None = None,
    ) -> Problem:
        """The planning problem of B episodes, which `predict` gives its planner.

        Args:
            belief: the present.
            goal: latents ``(B, *Z)``.
            init: first guess ``(B, T, F*A)``.
            deadline: blocks left, ``(B,)``, maybe infinitely many.
            generators: one an episode.
            horizons: blocks of each episode's plan; None is T for all.
        """
        longest = init.shape[1]
        own = tuple(horizons or [longest] * len(init))
        mixed = own if min(own) < longest else None
        objective = ModelObjective(
            self.model, belief, goal, self.cost, self.observer.bf16, self.max_rollouts, self.actor, deadline, mixed
        )
        low, high = self.observer.normalizer.bounds(self.model.frameskip, self.observer.device)
        problem = Problem(
            objective=objective,
            init=init,
            scale=torch.ones_like(init),
            low=low,
            high=high,
            generators=generators,
            action_size=self.model.action_size,
            dynamics=objective,
            horizons=mixed,
            step_flops=[blocks * self.model.rollout_flops(1) for blocks in own],
        )
        if self.proposal is None:
            return problem
        return replace(
            problem,
            scale=self.proposal_std * problem.scale,
            propose=partial(self.proposal, objective, problem),
            propose_flops=[self.proposal.flops(blocks) for blocks in own],
        )

    def rollout_flops(self, horizon: int) -> float:
        """FLOPs of one candidate over `horizon` blocks, the learned terms of its cost among them."""
        flops = self.model.rollout_flops(horizon)
        if self.actor is not None:
            steps = self.cost.asks_for_steps * self.actor.distance_flops
            contrast = self.cost.asks_for_contrast * self.actor.contrast_flops
            flops += horizon * (steps + contrast + self.cost.asks_for_actor * self.actor.actor_flops)
        return flops

    def _warm_start(self, plans: Tensor, horizons: NDArray[np.int64]) -> Tensor:
        """The rest of the last plans, then the mean action, ``(n, T, F*A)``; zeros beyond an episode's own horizon."""
        longest, frameskip = int(horizons.max()), self.observer.schedule.frameskip
        init = plans[:, : longest * frameskip].unflatten(1, (longest, frameskip)).flatten(2)
        ahead = torch.from_numpy(np.arange(longest) < horizons[:, None]).to(init.device)
        return init * ahead[:, :, None]

    def _generators(self, state: AgentState, rows: NDArray[np.intp]) -> list[torch.Generator]:
        """A random generator for the next plan of each episode."""
        seeds = [
            zlib.crc32(int(state.num_plans[row]).to_bytes(8, "little"), int(state.seeds[row])) for row in rows.tolist()
        ]
        return [torch.Generator(self.observer.device).manual_seed(seed) for seed in seeds]


def _keep(tried: list[tuple[Tensor, Tensor]]) -> Watch:
    """Appends copies of candidates ``(n, S, T, F*A)`` and costs ``(n, S)`` to `tried`; planners change theirs."""
    return lambda actions, costs: tried.append((actions.clone(), costs.clone()))


def _searches(tried: Sequence[tuple[Tensor, Tensor]], horizons: Sequence[int]) -> list[tuple[Candidates, ...]]:
    """What was tried for each of n episodes, over its own horizon."""
    return [
        tuple(Candidates(actions[place, :, :blocks], costs[place]) for actions, costs in tried)
        for place, blocks in enumerate(horizons)
    ]


def _decisions(
    num: int,
    rows: NDArray[np.intp],
    result: Plan,
    imagined: Sequence[Tensor | None],
    searches: Sequence[tuple[Candidates, ...]],
) -> tuple[Decision | None, ...]:
    """The decisions of one planning call for `rows` of `num` episodes."""
    costs, traces = result.cost.tolist(), result.trace.T.tolist()
    decisions: list[Decision | None] = [None] * num
    for place, row in enumerate(rows.tolist()):
        decisions[row] = Decision(
            cost=costs[place],
            trace=tuple(traces[place]),
            rollouts=result.rollouts[place],
            flops=result.flops[place],
            seconds=result.seconds,
            overshoot=result.overshoot,
            batch=len(rows),
            imagined=imagined[place],
            search=searches[place],
        )
    return tuple(decisions)
