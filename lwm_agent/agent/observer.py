"""Observation: frames become beliefs, for episodes of any age."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..compute.device import autocast
from ..models import LatentModel, WorldModel
from ..models.base import put, select
from ..normalizer import Normalizer
from ..protocols import Belief
from .schedule import Schedule
from .state import AgentState

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Observer:
    """Keeps the beliefs of a state up to date.

    Attributes:
        model: sees the frames.
        normalizer: its units.
        schedule: when a frame enters a belief.
        device: where the model is.
        bf16: whether to encode in bfloat16.
        seed: source of the episodes' seeds.
        usual_surprise: unit of the surprise, as in `Checkpoint`; None does not measure it.
    """

    model: LatentModel
    normalizer: Normalizer
    schedule: Schedule
    device: torch.device
    bf16: bool
    seed: int
    usual_surprise: float | None = None

    def begin(self, pixels: Frames) -> Belief:
        """Belief of episodes that begin with the uint8 frames ``(B, h, w, C)``."""
        with torch.no_grad(), autocast(self.device, self.bf16):
            return self.model.begin(self.normalizer.pixels(pixels, self.device))

    @staticmethod
    def new_goals(state: AgentState, goals: Frames) -> NDArray[np.bool_]:
        """Episodes whose goal picture is not that of `state`, ``(B,)``."""
        return (goals != state.goal_pixels).any(axis=(1, 2, 3))

    def restart(
        self,
        state: AgentState | None,
        rows: NDArray[np.intp],
        pixels: Frames,
        goals: Frames,
        deterministic: bool,
    ) -> AgentState:
        """The state with fresh `rows` ``(n,)`` where an episode starts, the first frame observed.

        `pixels` and `goals` ``(B, h, w, C)`` are of all episodes.
        """
        if state is not None and len(rows) == 0:
            return state
        count, schedule = len(rows), self.schedule
        both = self.begin(np.concatenate([pixels[rows], goals[rows]]))  # one call of the encoder
        first, actions = select(both, slice(count)), self.normalizer.action_size
        belief = type(first)(*(part.unsqueeze(1).repeat_interleave(schedule.num_phases, dim=1) for part in first))
        goal = both.latent[count:]
        fresh = AgentState(
            seeds=self._seeds(pixels[rows], goals[rows], deterministic),
            ages=np.zeros(count, np.int64),
            num_plans=np.zeros(count, np.int64),
            steps_until_replan=np.zeros(count, np.int64),
            goal_pixels=goals[rows],  # a copy, as rows are numbers
            goal=goal,
            beliefs=belief,
            executed_actions=goal.new_zeros(count, schedule.frameskip, actions),
            plan=goal.new_zeros(count, schedule.horizon * schedule.frameskip, actions),
            decisions=(None,) * count,
            surprise=np.full(count, np.nan),
        )
        return fresh if state is None else state.with_rows(rows, fresh)

    def observe(self, state: AgentState, pixels: Frames) -> AgentState:
        """The state after the newest frames ``(B, h, w, C)``, in the episodes that look now."""
        looks = self.schedule.looks(state.ages) & (state.ages > 0)  # the first frame was observed by `restart`
        young = looks & (state.ages < self.schedule.frameskip)
        for rows in map(np.flatnonzero, (young, looks & ~young)):
            if len(rows) > 0:
                state = self._observe_rows(state, rows, pixels)
        return state

    def _observe_rows(self, state: AgentState, rows: NDArray[np.intp], pixels: Frames) -> AgentState:
        """Observes for `rows` that are all younger than a block, or none of them."""
        place, surprise = self.places(state, rows), state.surprise
        frames = self.normalizer.pixels(pixels[rows], self.device)
        with torch.no_grad(), autocast(self.device, self.bf16):
            if state.ages[rows[0]] < self.schedule.frameskip:
                belief = self.model.begin(frames)
            else:
                before, block = select(state.beliefs, place), state.executed_actions[place[0]].flatten(1)
                belief = self.model.observe(before, block, frames)
                if self.usual_surprise is not None and isinstance(self.model, WorldModel):
                    surprise = surprise.copy()
                    errors = self.model.surprise(before, block, belief)
                    surprise[rows] = errors.double().cpu().numpy() / self.usual_surprise
        return replace(state, beliefs=put(state.beliefs, place, belief), surprise=surprise)

    def places(self, state: AgentState, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and phases of the beliefs that the newest frames of `rows` belong to, ``(n,)`` each."""
        phases = self.schedule.phases(state.ages[rows])
        return torch.from_numpy(rows).to(self.device), torch.from_numpy(phases).to(self.device)

    def _seeds(self, pixels: Frames, goals: Frames, deterministic: bool) -> NDArray[np.int64]:
        """A seed for each episode that starts, ``(n,)``.

        It follows from the pictures: neither the place in the batch nor other episodes matter.
        """
        base = self.seed if deterministic else int(torch.randint(2**31, ()))
        pairs = zip(pixels, goals, strict=True)
        return np.array(
            [zlib.crc32(goal.tobytes(), zlib.crc32(frame.tobytes(), base)) for frame, goal in pairs], np.int64
        )
