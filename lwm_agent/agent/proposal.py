"""Learned first guesses for planners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast
from ..errors import UserError
from ..models import WorldModel
from ..models.base import repeat, select
from ..planners.horizons import draw_episodes
from ..protocols import GoalActor, Problem
from ..validation import check_choice
from .chunking import in_chunks
from .objective import ModelObjective

PROPOSALS = ("auto", "actor", "none")


@dataclass(frozen=True)
class ActorProposal:
    """Futures that a goal-conditioned actor imagines block by block: its action, the latent that follows, and so on.

    A proposal from a goal-conditioned inverse model is the largest known gain for search in latent spaces (arXiv
    2605.08732, 2609.03294).

    Attributes:
        model: the world model.
        actor: chooses the actions.
        num_proposals: P, futures to imagine: the first by the actor's mean actions, others by random ones.
        bf16: whether to compute in bfloat16.
    """

    model: WorldModel
    actor: GoalActor
    num_proposals: int
    bf16: bool

    def flops(self, horizon: int) -> float:
        """FLOPs of the guesses of one episode, beyond those of as many rollouts.

        Each action waits for the latent before it, and no future shares its beginning with the others.
        """
        imagined = horizon * (self.model.imagine_flops() + self.actor.actor_flops)
        return self.actor.distance_flops + (self.num_proposals + 1) * (imagined - self.model.rollout_flops(horizon))

    def __call__(self, objective: ModelObjective, problem: Problem) -> tuple[Tensor, Tensor]:
        """First guesses ``(B, P + 1, T, F*A)`` inside the bounds of `problem`, and their costs ``(B, P + 1)``.

        The actor is to arrive when the temporal distance says that it can, or at the deadline if that is sooner. The
        last guess is the problem's own, imagined beside the others instead of after them.

        Args:
            objective: the present, the goal and the cost, of B episodes.
            problem: the problem that the guesses are for.
        """
        noise = torch.cat([self._noise(problem), torch.zeros_like(problem.init)[:, None]], dim=1)
        own = torch.zeros(noise.shape[:2], dtype=torch.bool, device=noise.device)
        own[:, -1] = True
        guesses, costs = in_chunks(partial(self._imagine, objective, problem), objective.max_rollouts, noise, own)
        return guesses, costs

    def _noise(self, problem: Problem) -> Tensor:
        """Standard normal noise ``(B, P, T, F*A)``; none for the first future.

        Each episode draws as much as its own horizon needs: no more, so that its plan depends on no other episode.
        """
        _, longest, block = problem.init.shape

        def draw(generator: torch.Generator, horizon: int) -> Tensor:
            size = (self.num_proposals, horizon, block)
            return torch.randn(size, generator=generator, device=problem.init.device, dtype=problem.init.dtype)

        noise = draw_episodes(problem, draw, (self.num_proposals, longest, block), dim=-2)
        noise[:, 0] = 0
        return noise

    def _imagine(
        self, objective: ModelObjective, problem: Problem, part: slice, noise: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Some guesses for `part` of the episodes: the problem's `own` ``(B, P)``, or by `noise` ``(B, P, T, F*A)``."""
        num = noise.shape[1]
        belief = repeat(select(objective.belief, part), num)  # (B*P, ...)
        goal, left, init = (
            rows[part][:, None] for rows in (self.model.summary(objective.goal), objective.steps_left, problem.init)
        )
        blocks, latents = [], []
        with autocast(init.device, self.bf16):
            for step in range(init.shape[2]):
                latent = self.model.summary(belief.latent).unflatten(0, (-1, num))
                mean, std = self.actor.act(latent, goal, (left - step).expand(-1, num))
                block = (mean + noise[:, :, step] * std).clamp(problem.low, problem.high)
                block = torch.where(own[..., None], init[:, :, step], block)
                belief = self.model.imagine(belief, block.flatten(0, 1))
                blocks.append(block)
                latents.append(belief.latent.unflatten(0, (-1, num)))
        guesses, futures = torch.stack(blocks, dim=2), torch.stack(latents, dim=2)
        return guesses, objective.rate(futures, guesses, part)


def make_proposal(name: str, checkpoint: Checkpoint, num_proposals: int, bf16: bool) -> ActorProposal | None:
    """The proposal called `name`, or None where plans start from the rest of the last plan.

    Raises:
        UserError: unknown name, no proposal wanted, or the checkpoint has no actor.
    """
    check_choice("proposal", name, PROPOSALS)
    actor = checkpoint.goal_actor
    if name == "actor" and actor is None:
        raise UserError(
            "proposal='actor': this checkpoint has no actor; train one with `lwm-agent train-heads`, or pass 'none'"
        )
    if name == "none" or actor is None:
        return None
    return ActorProposal(checkpoint.world_model, actor, num_proposals, bf16)
