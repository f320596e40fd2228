"""The objective of a planning problem: imagined futures from one present, and their distance from one goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from ..compute.device import autocast
from ..errors import UserError
from ..models import WorldModel
from ..models.base import select
from ..planners.costs import Futures, WeightedSum
from ..protocols import Belief, GoalActor
from .chunking import in_chunks


@dataclass(frozen=True)
class ModelObjective:
    """Objective and dynamics of the planning problems of B episodes.

    Attributes:
        model: the world model.
        belief: the present, of B episodes.
        goal: ``(B, *Z)``.
        cost: planning cost of a future.
        bf16: whether to compute in bfloat16.
        max_rollouts: candidate rollouts that are imagined at once, which bounds memory.
        actor: gives `cost` the steps to the goal and the actor's actions; None where nothing was learned.
        deadline: blocks left in each episode, ``(B,)``, maybe infinitely many; the actor's actions depend on it.
        horizons: blocks of each episode's plan; None if all plans have T. No block beyond them is imagined.
    """

    model: WorldModel
    belief: Belief
    goal: Tensor
    cost: WeightedSum
    bf16: bool
    max_rollouts: int
    actor: GoalActor | None = None
    deadline: Tensor | None = None
    horizons: tuple[int, ...] | None = None

    @property
    def start(self) -> Tensor:
        """Latent of the present, ``(B, *Z)``."""
        return self.belief.latent

    def __call__(self, actions: Tensor) -> Tensor:
        """Planning costs ``(B, S)`` of candidates ``(B, S, T, F*A)``.

        Gradients are taken at once, chunk by chunk: no chunk is kept until the others are done. To the caller, costs
        are linear in `actions`, with that gradient.
        """
        if not (actions.requires_grad and torch.is_grad_enabled()):
            (costs,) = in_chunks(lambda part, chunk: (self._costs(part, chunk),), self.max_rollouts, actions)
            return costs

        def differentiate(part: slice, chunk: Tensor) -> tuple[Tensor, Tensor]:
            leaf = chunk.detach().requires_grad_()
            costs = self._costs(part, leaf)
            return costs.detach(), gradient_of(costs.sum(), leaf)

        costs, gradient = in_chunks(differentiate, self.max_rollouts, actions)
        return costs + ((actions - actions.detach()) * gradient).flatten(2).sum(2)

    def _costs(self, part: slice, actions: Tensor) -> Tensor:
        return self.rate(self.imagine(part, actions), actions, part)

    def imagine(self, part: slice, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``, for `part` of the episodes."""
        belief = select(self.belief, part)
        with autocast(actions.device, self.bf16):
            if self.horizons is None:
                return self.model.rollout(belief, actions)
            return self._imagine_each(belief, actions, self.horizons[part])

    def _imagine_each(self, belief: Belief, actions: Tensor, horizons: tuple[int, ...]) -> Tensor:
        """Latents ``(B, S, T, *Z)`` up to the horizon of each episode, zeros beyond; one rollout for each horizon."""
        futures, order = [], []
        for horizon in sorted(set(horizons)):
            rows = [row for row, own in enumerate(horizons) if own == horizon]
            places = torch.tensor(rows, device=actions.device)
            latents = self.model.rollout(select(belief, places), actions[places, :, :horizon])
            beyond = latents.new_zeros(*latents.shape[:2], actions.shape[2] - horizon, *latents.shape[3:])
            futures.append(torch.cat([latents, beyond], dim=2))
            order += rows
        return torch.cat(futures)[torch.tensor(order, device=actions.device).argsort()]

    def rate(self, latents: Tensor, actions: Tensor, part: slice = slice(None)) -> Tensor:
        """Planning costs ``(B, S)`` of `latents` ``(B, S, T, *Z)`` after `actions`, for `part` of the episodes."""
        goal = self.goal[part]
        valid = None if self.valid is None else self.valid[part]
        if self.cost.terminal_only and valid is None:
            latents = latents[:, :, -1:]
        log_steps: Callable[[], Tensor] | None = None
        deviations: Callable[[], Tensor] | None = None
        contrasts: Callable[[], Tensor] | None = None
        if self.actor is not None:
            summaries, target = self.model.summary(latents), self.model.summary(goal)
            log_steps = partial(self.actor.log_steps, summaries, target)
            contrasts = partial(self.actor.contrasts, summaries, target)
            deviations = partial(self._deviations, self.actor, summaries, target, actions, part)
        with autocast(actions.device, self.bf16):
            futures = Futures(self.model.distance(latents, goal), actions, log_steps, deviations, valid, contrasts)
            return self.cost(futures).float()

    @cached_property
    def valid(self) -> Tensor | None:
        """Mask ``(B, T)`` of the blocks that belong to their episode's plan; None if all do."""
        if self.horizons is None:
            return None
        blocks = torch.arange(max(self.horizons), device=self.goal.device)
        return blocks < torch.tensor(self.horizons, device=self.goal.device)[:, None]

    @cached_property
    def steps_left(self) -> Tensor:
        """Model steps ``(B,)`` to arrive in: as many as the temporal distance expects, none beyond the deadline."""
        assert self.actor is not None
        assert self.deadline is not None
        start, goal = self.model.summary(self.start), self.model.summary(self.goal)
        with torch.no_grad(), autocast(self.goal.device, self.bf16):
            return torch.minimum(self.actor.steps_to_go(start, goal), self.deadline).long()

    def _deviations(self, actor: GoalActor, summaries: Tensor, goal: Tensor, actions: Tensor, part: slice) -> Tensor:
        """Distance ``(B, S, T)`` of `actions` from the actor's, on the way along `summaries` ``(B, S, T, D)``."""
        start = self.model.summary(self.start)[part, None, None].expand_as(summaries[:, :, :1])
        before = torch.cat([start, summaries[:, :, :-1]], dim=2)
        steps = self.steps_left[part, None, None] - torch.arange(actions.shape[2], device=actions.device)
        return actor.deviations(before, goal, steps.expand(actions.shape[:3]), actions)

    def rollout(self, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``."""
        (latents,) = in_chunks(lambda part, chunk: (self.imagine(part, chunk),), self.max_rollouts, actions)
        return latents

    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Implements `Dynamics`; the model remembers nothing before `latents`."""

        @torch.enable_grad()
        def differentiate(_: slice, before: Tensor, chunk: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
            leaf = chunk.detach().requires_grad_()
            with autocast(actions.device, self.bf16):
                reached = self.model.step(before.flatten(0, 2), leaf.flatten(0, 2))  # (N, *Z)
            reached = reached.reshape(before.shape)
            return reached.detach(), gradient_of(loss(reached, *inputs), leaf)

        reached, gradient = in_chunks(differentiate, self.max_rollouts, latents, actions, *loss_inputs)
        return reached, gradient


def gradient_of(loss: Tensor, actions: Tensor) -> Tensor:
    """Gradient of `loss` in `actions`, zero where it is not a number.

    Raises:
        UserError: there is none.
    """
    if not loss.requires_grad:
        raise UserError("the world model has no gradient: imagine without no_grad or detach, or use another planner")
    (gradient,) = torch.autograd.grad(loss, actions)
    return gradient.nan_to_num(0.0, 0.0, 0.0)
