"""Insight into an agent's mind: its memory after a call, in pictures, environment actions and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..insight import Insight, PlanInsight
from ..models import WorldModel
from ..models.base import select
from .observer import Observer
from .state import AgentState, Candidates, Decision


@dataclass(frozen=True)
class Inspector:
    """Explains the states that an agent returned; nothing that it does changes the agent.

    Attributes:
        checkpoint: paints latents, and knows the units of actions.
        observer: knows which belief is the newest.
    """

    checkpoint: Checkpoint
    observer: Observer

    def __call__(self, state: AgentState, row: int) -> Insight:
        """Insight into episode `row` of the state that the last call returned."""
        state = state[[row]]
        (decision,) = state.decisions
        plan = None if decision is None else self._plan(state, decision)
        return Insight(distance=self._distance(state), surprise=self._surprise(state), plan=plan)

    @torch.no_grad()
    def _distance(self, state: AgentState) -> float | None:
        """Latent distance to the goal; None if the newest frame did not enter a belief."""
        model, schedule, ages = self.observer.model, self.observer.schedule, state.ages - 1
        if not isinstance(model, WorldModel) or not schedule.looks(ages)[0]:
            return None
        place = self.observer.places(replace(state, ages=ages), np.arange(1))
        now = select(state.beliefs, place).latent
        return float(model.distance(now[:, None, None], state.goal))

    def _surprise(self, state: AgentState) -> float | None:
        """Surprise at the newest frame; None if it did not enter a belief, or no prediction is known that it judges."""
        (surprise,) = state.surprise.tolist()
        return surprise if self.observer.schedule.looks(state.ages - 1)[0] and not math.isnan(surprise) else None

    def _plan(self, state: AgentState, decision: Decision) -> PlanInsight:
        schedule = self.observer.schedule
        blocks = int(schedule.horizons(state.ages - 1)[0])
        # The state is that after the plan's first action, which has moved to the executed ones.
        actions = torch.cat([state.executed_actions[0, -1:], state.plan[0]])[: blocks * schedule.frameskip]
        imagined = decision.imagined
        return PlanInsight(
            cost=decision.cost,
            ms=1000.0 * decision.seconds / decision.batch,
            env_actions=self._env_actions(actions.unflatten(0, (blocks, schedule.frameskip)).flatten(1)),
            pictures=self.checkpoint.paint(imagined) if imagined is not None and self.checkpoint.paints else None,
            search=tuple(self._ranked(tried) for tried in decision.search),
        )

    def _ranked(self, tried: Candidates) -> NDArray[Any]:
        """Environment actions ``(S, T, F, A)`` of candidates, the cheapest first."""
        return self._env_actions(tried.actions)[np.argsort(tried.costs.cpu().numpy(), kind="stable")]

    def _env_actions(self, blocks: Tensor) -> NDArray[Any]:
        return self.checkpoint.normalizer.env_actions(blocks)
