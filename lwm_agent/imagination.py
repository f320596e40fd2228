"""A world model as planners see it: futures from one present, and how far they are from one goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from .agent_state import select
from .device import autocast
from .models import Heads
from .planners.costs import Futures, WeightedSum
from .protocols import Belief


@dataclass(frozen=True)
class Imagination:
    """Objective and dynamics of the planning problems of B episodes.

    Attributes:
        model: the world model.
        belief: the present, of B episodes.
        goal: ``(B, *Z)``.
        cost: how bad a future is.
        bf16: whether to compute in bfloat16.
        max_rollouts: candidate rollouts that are imagined at once, which bounds memory.
        heads: tell `cost` the steps to the goal, and what the actor would do; None where there are none.
        deadline: blocks left in each episode, ``(B,)``, maybe infinitely many; what the actor would do depends on it.
    """

    model: Any
    belief: Belief
    goal: Tensor
    cost: WeightedSum
    bf16: bool
    max_rollouts: int
    heads: Heads | None = None
    deadline: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """Latent of the present, ``(B, *Z)``."""
        return self.belief.latent

    def objective(self, actions: Tensor) -> Tensor:
        """Planning costs ``(B, S)`` of candidates ``(B, S, T, F*A)``."""

        def imagine(part: slice, chunk: Tensor) -> Tensor:
            return self.rate(self.model.rollout(select(self.belief, part), chunk), chunk, part)

        return self._in_chunks(imagine, actions)

    def rate(self, latents: Tensor, actions: Tensor, part: slice = slice(None)) -> Tensor:
        """Planning costs ``(B, S)`` of `latents` ``(B, S, T, *Z)`` after `actions`, for `part` of the episodes."""
        goal = self.goal[part]
        if self.cost.terminal_only:
            latents = latents[:, :, -1:]
        told: dict[str, Callable[[], Tensor]] = {}
        if self.heads is not None:
            told["log_steps"] = partial(self.heads.log_steps, latents, goal)
            told["deviations"] = partial(self._deviations, latents, actions, part)
        with autocast(actions.device, self.bf16):
            return self.cost(Futures(self.model.distance(latents, goal), actions, **told)).float()

    @cached_property
    def steps_left(self) -> Tensor:
        """Model steps ``(B,)`` to arrive in: as many as the temporal distance expects, none beyond the deadline."""
        assert self.heads is not None
        assert self.deadline is not None
        with torch.no_grad(), autocast(self.goal.device, self.bf16):
            return torch.minimum(self.heads.steps_to_go(self.start, self.goal), self.deadline).long()

    def _deviations(self, latents: Tensor, actions: Tensor, part: slice) -> Tensor:
        """How far `actions` are from the actor's, ``(B, S, T)``, on the way along `latents`."""
        assert self.heads is not None
        start = self.start[part, None, None].expand_as(latents[:, :, :1])
        before = torch.cat([start, latents[:, :, :-1].to(start.dtype)], dim=2)
        steps = self.steps_left[part, None, None] - torch.arange(actions.shape[2], device=actions.device)
        return self.heads.deviations(before, self.goal[part], steps.expand(actions.shape[:3]), actions)

    def rollout(self, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``."""
        return self._in_chunks(lambda part, chunk: self.model.rollout(select(self.belief, part), chunk), actions)

    def step(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` one block after `latents` ``(B, S, T, *Z)``, which remember nothing before them."""

        def imagine(part: slice, chunk: Tensor, before: Tensor) -> Tensor:
            blocks = chunk.flatten(0, 2)[:, None, None]  # (N, 1, 1, F*A)
            start = before.flatten(0, 2).unsqueeze(1)  # (N, 1, *Z)
            reached = self.model.rollout(Belief(start, blocks.new_zeros(len(blocks), 0, blocks.shape[-1])), blocks)
            return reached.reshape(before.shape)

        return self._in_chunks(imagine, actions, latents)

    def _in_chunks(self, imagine: Callable[..., Tensor], *of: Tensor) -> Tensor:
        """What `imagine` makes of some episodes and their candidates ``(B, S, ...)``, in float32.

        Takes whole episodes, as many at a time as `max_rollouts` allows, or parts of one that is too large. Of several
        chunks that ask for gradients, none is kept: each is imagined once more when its turn comes.
        """
        episodes, samples = of[0].shape[:2]
        size = max(1, self.max_rollouts // samples)
        if episodes * samples > self.max_rollouts and any(tensor.requires_grad for tensor in of):
            imagine = partial(torch.utils.checkpoint.checkpoint, imagine, use_reentrant=False)
        done = []
        with autocast(of[0].device, self.bf16):
            for first in range(0, episodes, size):
                part = slice(first, first + size)
                chunks = zip(*(tensor[part].split(self.max_rollouts, dim=1) for tensor in of), strict=True)
                done.append(torch.cat([imagine(part, *chunk).float() for chunk in chunks], dim=1))
        return torch.cat(done)
