"""Heads: small networks that are trained on the latents of a frozen world model, in minutes on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .layers import linear_weights, normed_mlp, pair


class Actor(nn.Module):
    """Goal-conditioned inverse model (arXiv 2605.08732): which action block leads towards a goal in so many steps.

    Args:
        latent_size: D.
        block_size: F*A, numbers of an action block.
        width: of its three hidden layers.
        max_steps: the most model steps to go that it tells apart.
    """

    def __init__(self, latent_size: int, block_size: int, width: int, max_steps: int) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.steps = nn.Embedding(max_steps, 32)
        self.body = normed_mlp(3 * latent_size + 32, width, 2 * block_size, depth=3)

    def forward(self, latent: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(..., F*A)`` of the next block from `latent` ``(..., D)`` to `goal`.

        `goal` ``(..., D)`` may have fewer rows, where they broadcast. `steps` ``(...)`` are the model steps left, from
        1; those out of range count as the nearest in it.
        """
        index = steps.clamp(1, self.max_steps) - 1
        mean, log_std = self.body(torch.cat([pair(latent, goal), self.steps(index)], dim=-1)).float().chunk(2, dim=-1)
        return mean, log_std.clamp(-4, 1).exp()


class TemporalDistance(nn.Module):
    """Logarithm of the model steps from one latent to another (arXiv 2608.12959)."""

    def __init__(self, latent_size: int, width: int) -> None:
        super().__init__()
        self.body = normed_mlp(3 * latent_size, width, 1, depth=2)

    def forward(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Log of the steps ``(...)`` from `latent` to `goal` ``(..., D)``, which may have fewer rows, as of `pair`."""
        distance: Tensor = self.body(pair(latent, goal)).float().squeeze(-1)
        return distance


class Contrast(nn.Module):
    """Distance that knows apart what only looks alike: squared distance of two embeddings, in nats.

    It learns which frame of a batch comes soon after a given one (InfoNCE, arXiv 1807.03748; between the times of
    a trajectory, contrastive RL, arXiv 2206.07568). A pose that looks like the goal and is a long way from it, such as
    a T after a third of a turn, follows it as seldom as any other frame; so it is as far. A network that sees both
    latents at once would go by the agent instead, which stands near where it was if little time has passed.

    Args:
        latent_size: D.
        width: of its three hidden layers.
    """

    SIZE = 32
    """Numbers of an embedding."""

    one_step: Tensor

    def __init__(self, latent_size: int, width: int) -> None:
        super().__init__()
        self.body = normed_mlp(latent_size, width, self.SIZE, depth=3)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("one_step", torch.ones(()))

    def forward(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Distance ``(...)`` from `latent` to `goal` ``(..., D)``, which may have fewer rows where they broadcast."""
        return (self.embed(latent) - self.embed(goal)).square().sum(-1)

    def embed(self, latent: Tensor) -> Tensor:
        """Embeddings ``(..., 32)`` of latents ``(..., D)``, in roots of nats."""
        embedding: Tensor = self.body(latent).float() * (self.log_scale / 2).exp()
        return embedding

    def beyond(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Distance beyond that of one model step, as of `forward`; none nearer than that, where latents tell better."""
        return F.relu(self(latent, goal) - self.one_step)

    @torch.no_grad()
    def measure_step(self, latent: Tensor, later: Tensor) -> None:
        """Measures how far a model step is: `later` ``(N, D)`` are one after `latent` ``(N, D)``."""
        self.one_step.copy_(self(latent, later).mean())

    def loss(self, latent: Tensor, later: Tensor) -> Tensor:
        """Cross-entropy of finding for each `latent` ``(N, D)`` its own `later` ``(N, D)`` among all of them."""
        first, second = self.embed(latent), self.embed(later)
        with torch.autocast(latent.device.type, enabled=False):  # a small difference of large numbers
            squares = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
        return F.cross_entropy(-squares, torch.arange(len(latent), device=latent.device))


class Heads(nn.Module):
    """An actor, a temporal distance and maybe a contrast, learned from pairs of frames of one trajectory.

    Args:
        latent_size: D.
        block_size: F*A, numbers of an action block.
        width: of the hidden layers of actor and contrast; those of the distance have half of it.
        max_steps: model steps between the frames of a pair, at most.
        contrast: whether there is a `Contrast`, whose embedding actor and distance see too.
    """

    def __init__(
        self, *, latent_size: int, block_size: int, width: int = 384, max_steps: int = 25, contrast: bool = False
    ) -> None:
        super().__init__()
        self.settings = {"latent_size": latent_size, "block_size": block_size, "width": width, "max_steps": max_steps}
        self.contrast = Contrast(latent_size, width) if contrast else None
        if contrast:  # those without one are saved as they were before there was any
            self.settings["contrast"] = True
        seen = latent_size + (Contrast.SIZE if contrast else 0)
        self.actor = Actor(seen, block_size, width, max_steps)
        self.distance = TemporalDistance(seen, width // 2)

    def loss(self, latent: Tensor, goal: Tensor, steps: Tensor, block: Tensor) -> dict[str, Tensor]:
        """Losses of pairs `latent`, `goal` ``(N, D)``, `steps` ``(N,)`` apart; `block` ``(N, F*A)`` leaves `latent`."""
        latent, goal = self.see(latent), self.see(goal)
        mean, std = self.actor(latent, goal, steps)
        losses = {
            "actor": F.gaussian_nll_loss(mean, block, std.square()),
            "distance": F.mse_loss(self.distance(latent, goal), steps.float().log()),
        }
        losses["loss"] = losses["actor"] + losses["distance"]
        losses["actor_error"] = F.mse_loss(mean, block)  # to look at: 1.0 would be guessing
        return losses

    def see(self, latent: Tensor) -> Tensor:
        """What actor and temporal distance see of latents ``(..., D)``: with a contrast, its embedding too."""
        if self.contrast is None:
            return latent
        return torch.cat([latent, self.contrast.embed(latent).to(latent.dtype)], dim=-1)

    def act(self, latent: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(..., F*A)`` of the next block; see `Actor`."""
        mean, std = self.actor(self.see(latent), self.see(goal), steps)
        return mean, std

    def log_steps(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Logarithm of the model steps ``(B, S, T)`` from `latents` ``(B, S, T, D)`` to `goal` ``(B, D)``."""
        steps: Tensor = self.distance(self.see(latents), self.see(goal)[:, None, None])
        return steps

    def deviations(self, latents: Tensor, goal: Tensor, steps: Tensor, blocks: Tensor) -> Tensor:
        """Mean squared distance ``(B, S, T)`` of `blocks` ``(B, S, T, F*A)`` from the actor's, in its deviations.

        The blocks leave `latents` ``(B, S, T, D)``, for `goal` ``(B, D)``, with `steps` ``(B, S, T)`` to go.
        """
        mean, std = self.act(latents, goal[:, None, None], steps)
        return ((blocks - mean) / std).square().mean(dim=-1)

    def contrasts(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Implements `GoalActor`."""
        if self.contrast is None:
            raise UserError(
                "the cost 'contrast' needs heads with a contrast: train them with "
                "`lwm-agent train-heads --set heads.contrast_steps=12`"
            )
        return self.contrast.beyond(latents, goal[:, None, None])

    @property
    def contrast_flops(self) -> float:
        """FLOPs of the embedding of one latent, in linear maps; a multiply-add is two."""
        return 0.0 if self.contrast is None else 2.0 * linear_weights(self.contrast)

    @property
    def actor_flops(self) -> float:
        """FLOPs of one action of the actor, but for the embedding of the goal, which many actions share."""
        return 2.0 * linear_weights(self.actor) + self.contrast_flops

    @property
    def distance_flops(self) -> float:
        """FLOPs of the temporal distance of one latent, but for the embedding of the goal, which many share."""
        return 2.0 * linear_weights(self.distance) + self.contrast_flops

    def steps_to_go(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Model steps ``(N,)``, whole numbers from 1, that the distance expects from `latent` to `goal` ``(N, D)``."""
        return self.distance(self.see(latent), self.see(goal)).exp().round().long().clamp(1, self.actor.max_steps)
