"""GCBC: goal-conditioned behaviour cloning from pixels, a policy without a world model (arXiv 2410.20092, appendix)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..protocols import Batch, Belief
from ..validation import PositiveInt, check_choice
from .base import LatentModel, checked
from .encoders import ENCODERS
from .layers import linear_weights, normed_mlp, pair

PRESETS: dict[str, dict[str, Any]] = {
    "base": {"image_size": 224, "encoder": "vit", "latent_size": 192},
    "tiny": {},
}
"""Constructor arguments by preset: the encoders are those of LeWorldModel's presets."""

RECIPES: dict[str, dict[str, Any]] = {
    "base": {"learning_rate": 3e-4, "batch_size": 256, "clip_length": 2, "steps": 100_000},
    "tiny": {"learning_rate": 3e-4, "batch_size": 256, "clip_length": 2, "steps": 10_000},
}
"""Settings of `TrainConfig` by preset; learning rate and batch size are OGBench's for pictures."""


class Sight(NamedTuple):
    """The belief of a model that remembers nothing before the newest frame."""

    latent: Tensor  # (B, D)


class GCBC(LatentModel):
    """An encoder of single frames, and an actor that sees the latents of frame and goal.

    The loss is the mean squared error of the action block, which is, up to a constant, the Gaussian likelihood with a
    deviation of 1. Goals are frames of the same trajectory, uniform over those that follow. Every frame of a clip that
    lies before the goal is an example; goals of other trajectories, which nobody was seen to reach, are left out.

    Two things differ from OGBench: the actor chooses a block of F actions, as plans do, and frame and goal are encoded
    apart and meet in the actor, with their difference, where OGBench stacks their colours before one encoder.

    Args:
        action_size: A, numbers in an environment action.
        frameskip: F, environment steps in a model step.
        image_size: side of the square frames, px.
        encoder: name in `ENCODERS`.
        latent_size: D.
        width: of the actor's hidden layers.
        depth: number of the actor's hidden layers.
    """

    needs_goals = True

    def __init__(
        self,
        *,
        action_size: PositiveInt,
        frameskip: PositiveInt = 5,
        image_size: PositiveInt = 64,
        encoder: str = "conv",
        latent_size: PositiveInt = 256,
        width: PositiveInt = 512,
        depth: PositiveInt = 3,
    ) -> None:
        super().__init__(
            action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(latent_size,)
        )
        check_choice("encoder", encoder, ENCODERS)
        for name, value in {"width": width, "depth": depth}.items():
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        self.encoder = ENCODERS[encoder](image_size)
        self.projector = nn.Linear(self.encoder.features, latent_size)
        self.actor = normed_mlp(3 * latent_size, width, self.block_size, depth)

    def embed(self, pixels: Tensor) -> Tensor:
        """Latents ``(N, D)`` of frames ``(N, C, h, w)``."""
        latents: Tensor = self.projector(self.encoder(pixels))
        return latents.float()

    def begin(self, pixels: Tensor) -> Sight:
        """Implements `LatentModel`."""
        return Sight(self.embed(pixels))

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Sight:
        """Implements `LatentModel`."""
        return checked(belief, Sight)._replace(latent=self.embed(pixels))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Mean squared error of the blocks that leave the frames before the goal.

        Raises:
            UserError: the batch has no goals.
        """
        if batch.goal is None or batch.goal_steps is None:
            raise UserError("behaviour cloning learns from goals: this batch has none")
        clips, examples = batch.actions.shape[:2]
        pictures = torch.cat([batch.pixels[:, :-1], batch.goal.unsqueeze(1)], dim=1)
        latents = self.embed(pictures.flatten(0, 1)).unflatten(0, (clips, examples + 1))
        blocks = self.actor(pair(latents[:, :-1], latents[:, -1:].expand_as(latents[:, :-1]))).float()
        steps = self.frameskip * torch.arange(examples, device=batch.goal_steps.device)
        before = (steps < batch.goal_steps[:, None]) & batch.goal_steps.isfinite()[:, None]  # (B, L - 1)
        errors = (blocks - batch.actions).square().mean(-1)
        return {"loss": (errors * before).sum() / before.sum().clamp_min(1)}

    def encode_flops(self) -> float:
        """Implements `LatentModel`."""
        return self.encoder.flops() + 2.0 * linear_weights(self.projector)

    @property
    def policy(self) -> GCBC:
        """Itself."""
        return self

    @property
    def actor_flops(self) -> float:
        """FLOPs of one action block, in linear maps; a multiply-add is two."""
        return 2.0 * linear_weights(self.actor)

    @property
    def distance_flops(self) -> float:
        """0: there is no sense of time."""
        return 0.0

    def act(self, latent: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Implements `GoalPolicy`: it does not look at `steps`, and the deviation is the loss's, 1."""
        mean: Tensor = self.actor(pair(latent, goal)).float()
        return mean, torch.ones_like(mean)

    def steps_to_go(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Implements `GoalPolicy`: infinitely many."""
        return latent.new_full((len(latent),), torch.inf)

    def describe(self) -> str:
        """Implements `LatentModel`."""
        return "Goal-conditioned behaviour cloning from pixels, a policy without a world model,"
