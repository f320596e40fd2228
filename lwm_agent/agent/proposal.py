"""Learned first guesses for planners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast
from ..errors import UserError
from ..models import Heads
from ..protocols import Belief, Problem
from .objective import Imagination
from .state import select

PROPOSALS = ("auto", "actor", "none")


@dataclass(frozen=True)
class ActorProposal:
    """What the actor would do, imagined block by block: its action, the latent that follows, its next action.

    A proposal from a goal-conditioned inverse model is the largest known gain for search in latent spaces (arXiv
    2605.08732, 2609.03294).

    Attributes:
        model: the world model.
        heads: actor and temporal distance on its latents.
        num_proposals: P, futures to imagine: the first by the actor's mean actions, others by random ones.
        bf16: whether to compute in bfloat16.
    """

    model: Any
    heads: Heads
    num_proposals: int
    bf16: bool

    def flops(self, horizon: int, context: int) -> float:
        """FLOPs of the guesses of an episode that remembers `context` frames, beyond those of as many rollouts.

        Each action waits for the latent before it, and no future shares its beginning with the others.
        """
        advances = sum(self.model.advance_flops(context + step) for step in range(horizon))
        each = advances - self.model.rollout_flops(horizon, context) + horizon * self.heads.actor_flops
        return self.heads.distance_flops + (self.num_proposals + 1) * each

    def __call__(self, imagination: Imagination, problem: Problem) -> tuple[Tensor, Tensor]:
        """First guesses ``(B, P + 1, T, F*A)`` inside the bounds of `problem`, and their costs ``(B, P + 1)``.

        The actor is told to arrive when the temporal distance says that it can, or at the deadline if that is sooner.
        The last guess is the problem's own, imagined beside the others instead of after them.

        Args:
            imagination: the present, the goal and the cost, of B episodes.
            problem: what the guesses are for.
        """
        size = (self.num_proposals, *problem.init.shape[1:])
        noise = torch.stack([torch.randn(size, generator=drawn, device=drawn.device) for drawn in problem.generators])
        noise[:, 0] = 0
        noise = torch.cat([noise, torch.zeros_like(problem.init)[:, None]], dim=1)
        own = torch.zeros(noise.shape[:2], dtype=torch.bool, device=noise.device)
        own[:, -1] = True
        guesses, costs = imagination.in_chunks(partial(self._imagine, imagination, problem), noise, own)
        return guesses, costs

    def _imagine(
        self, imagination: Imagination, problem: Problem, part: slice, noise: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Some guesses for `part` of the episodes: the problem's `own` ``(B, P)``, or by `noise` ``(B, P, T, F*A)``."""
        num = noise.shape[1]
        past, rest = select(imagination.belief, part), (imagination.goal, imagination.steps_left, problem.init)
        belief = Belief(*(x.repeat_interleave(num, dim=0) for x in past))  # (B*P, ...), as all that follows
        goal, steps, init = (x[part].repeat_interleave(num, dim=0) for x in rest)
        noise, own = noise.flatten(0, 1), own.flatten()[:, None]
        blocks, latents = [], []
        with autocast(init.device, self.bf16):
            for step in range(init.shape[1]):
                mean, std = self.heads.actor(belief.latent, goal, steps - step)
                block = (mean + noise[:, step] * std).clamp(problem.low, problem.high)
                block = torch.where(own, init[:, step], block)
                belief = self.model.advance(belief, block)
                blocks.append(block)
                latents.append(belief.latent)
        guesses, futures = (torch.stack(x, dim=1).unflatten(0, (-1, num)) for x in (blocks, latents))
        return guesses, imagination.rate(futures, guesses, part)


def make_proposal(name: str, checkpoint: Checkpoint, num_proposals: int, bf16: bool) -> ActorProposal | None:
    """The proposal called `name`, or None where plans start from what is left of the last one.

    Raises:
        ValueError: unknown name, no proposal wanted, or the checkpoint has no actor.
    """
    if num_proposals < 1:
        raise UserError(f"num_proposals={num_proposals} must be at least 1 (proposal='none' turns proposals off)")
    if name not in PROPOSALS:
        raise UserError(f"proposal={name!r} is unknown: choose one of {', '.join(PROPOSALS)}")
    if name == "actor" and checkpoint.heads is None:
        raise UserError(
            "proposal='actor': this checkpoint has no actor; train one with `lwm-agent train-heads`, or pass 'none'"
        )
    if name == "none" or checkpoint.heads is None:
        return None
    return ActorProposal(checkpoint.model, checkpoint.heads, num_proposals, bf16)
