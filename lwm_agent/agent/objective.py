"""A world model as planners see it: futures from one present, and how far they are from one goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..compute.device import autocast
from ..errors import UserError
from ..models import Heads
from ..planners.costs import Futures, WeightedSum
from ..protocols import Belief
from .state import select


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
        """Planning costs ``(B, S)`` of candidates ``(B, S, T, F*A)``.

        Where gradients are asked for, they are taken at once, chunk by chunk: no chunk is remembered until the others
        are done. To the caller, costs are linear in `actions`, with that gradient.
        """
        if not (actions.requires_grad and torch.is_grad_enabled()):
            (costs,) = self.in_chunks(lambda part, chunk: (self._costs(part, chunk),), actions)
            return costs

        def differentiate(part: slice, chunk: Tensor) -> tuple[Tensor, Tensor]:
            leaf = chunk.detach().requires_grad_()
            costs = self._costs(part, leaf)
            return costs.detach(), gradient_of(costs.sum(), leaf)

        costs, gradient = self.in_chunks(differentiate, actions)
        return costs + ((actions - actions.detach()) * gradient).flatten(2).sum(2)

    def _costs(self, part: slice, actions: Tensor) -> Tensor:
        return self.rate(self._roll(select(self.belief, part), actions), actions, part)

    def _roll(self, belief: Belief, actions: Tensor) -> Tensor:
        with autocast(actions.device, self.bf16):
            latents: Tensor = self.model.rollout(belief, actions)
        return latents

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
        (latents,) = self.in_chunks(lambda part, chunk: (self._roll(select(self.belief, part), chunk),), actions)
        return latents

    def step(self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *of: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Dynamics`; the model remembers nothing before `latents`."""

        @torch.enable_grad()
        def imagine(_: slice, before: Tensor, chunk: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            leaf = chunk.detach().requires_grad_()
            blocks = leaf.flatten(0, 2)[:, None, None]  # (N, 1, 1, F*A)
            start = before.flatten(0, 2).unsqueeze(1)  # (N, 1, *Z)
            reached = self._roll(Belief(start, blocks.new_zeros(len(blocks), 0, blocks.shape[-1])), blocks)
            reached = reached.reshape(before.shape).float()
            return reached.detach(), gradient_of(loss(reached, *rest), leaf)

        reached, gradient = self.in_chunks(imagine, latents, actions, *of)
        return reached, gradient

    def in_chunks(self, imagine: Callable[..., tuple[Tensor, ...]], *of: Tensor) -> tuple[Tensor, ...]:
        """What `imagine` makes of some episodes and their candidates ``(B, S, ...)``, in float32.

        Takes whole episodes, as many at a time as `max_rollouts` allows, or parts of one that is too large.
        """
        size = max(1, self.max_rollouts // of[0].shape[1])
        done = []
        for first in range(0, len(of[0]), size):
            part = slice(first, first + size)
            chunks = zip(*(tensor[part].split(self.max_rollouts, dim=1) for tensor in of), strict=True)
            made = zip(*(imagine(part, *chunk) for chunk in chunks), strict=True)
            done.append([torch.cat(tensors, dim=1).float() for tensors in made])
        return tuple(torch.cat(tensors) for tensors in zip(*done, strict=True))


def gradient_of(loss: Tensor, actions: Tensor) -> Tensor:
    """Gradient of `loss` in `actions`, zero where it is not a number.

    Raises:
        ValueError: there is none.
    """
    if not loss.requires_grad:
        raise UserError("the world model has no gradient: imagine without no_grad or detach, or use another planner")
    (gradient,) = torch.autograd.grad(loss, actions)
    return gradient.nan_to_num(0.0, 0.0, 0.0)
