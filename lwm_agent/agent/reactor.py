"""Reactive decisions: a learned policy acts, and nothing is imagined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compute.device import autocast, synchronize
from ..models.base import select
from ..protocols import GoalPolicy
from .observer import Observer
from .state import AgentState, Decision

FAR = 10**9
"""Model steps that stand for infinitely many, in whole numbers."""


@dataclass(frozen=True)
class Reactor:
    """Takes the mean action block of a policy, clipped into the bounds; in the place of a `Replanner`.

    Attributes:
        observer: gives the beliefs, and the schedule.
        policy: chooses the actions.
    """

    observer: Observer
    policy: GoalPolicy

    @property
    def flops(self) -> float:
        """Floating-point operations of a decision for one episode."""
        return self.policy.actor_flops + self.policy.distance_flops

    def plan(self, state: AgentState, rows: NDArray[np.intp]) -> AgentState:
        """The state with new action blocks for the episodes `rows` ``(n,)``."""
        decisions: list[Decision | None] = [None] * len(state)
        if len(rows) == 0:
            return replace(state, decisions=tuple(decisions))
        started, schedule, ages = perf_counter(), self.observer.schedule, state.ages[rows]
        place, phase = self.observer.places(state, rows)
        blocks = self._act(select(state.beliefs, (place, phase)).latent, state.goal[place], schedule.blocks_left(ages))
        synchronize(self.observer.device)
        seconds = perf_counter() - started
        for row in rows.tolist():
            decisions[row] = Decision(
                cost=0.0, trace=(), rollouts=0, flops=self.flops, seconds=seconds, overshoot=0.0, batch=len(rows)
            )
        wait = state.steps_until_replan.copy()
        wait[rows] = schedule.steps_to_execute(ages)
        plan = state.plan.index_put((place,), blocks.unflatten(1, (schedule.frameskip, -1)))
        return replace(state, plan=plan, steps_until_replan=wait, decisions=tuple(decisions))

    @torch.no_grad()
    def _act(self, latent: Tensor, goal: Tensor, deadline: NDArray[np.float64]) -> Tensor:
        """Blocks ``(n, F*A)`` from `latent` to `goal` ``(n, *Z)``, with `deadline` ``(n,)`` model steps left."""
        device, model = self.observer.device, self.observer.model
        now, target = model.summary(latent), model.summary(goal)
        left = torch.from_numpy(deadline).float().to(device)
        with autocast(device, self.observer.bf16):
            steps = torch.minimum(self.policy.steps_to_go(now, target), left).clamp_max(FAR).long()
            mean, _ = self.policy.act(now, target, steps)
        low, high = self.observer.normalizer.bounds(model.frameskip, device)
        return mean.float().clamp(low, high)
