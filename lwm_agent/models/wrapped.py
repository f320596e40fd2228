"""A world model behind which instruments put other futures and distances."""

from __future__ import annotations

import torch
from torch import Tensor

from ..protocols import Batch, Belief
from .base import WorldModel


class WrappedModel(WorldModel):
    """A world model that does all as another one does, but for the methods that a subclass defines.

    Args:
        model: the other world model.
    """

    def __init__(self, model: WorldModel) -> None:
        super().__init__(
            action_size=model.action_size,
            frameskip=model.frameskip,
            image_size=model.image_size,
            latent_shape=model.latent_shape,
        )
        self.wrapped = model

    def begin(self, pixels: Tensor) -> Belief:
        """Belief of episodes that begin."""
        return self.wrapped.begin(pixels)

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Belief:
        """Belief after an executed block."""
        return self.wrapped.observe(belief, block, pixels)

    def imagine(self, belief: Belief, block: Tensor) -> Belief:
        """Belief after an imagined block."""
        return self.wrapped.imagine(belief, block)

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, *Z)``."""
        return self.wrapped.rollout(belief, actions)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Latents ``(N, *Z)`` after one block."""
        return self.wrapped.step(latents, blocks)

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Distance ``(B, S, T)`` to the goal."""
        return self.wrapped.distance(latents, goal)

    def summary(self, latents: Tensor) -> Tensor:
        """Vectors ``(..., D)``."""
        return self.wrapped.summary(latents)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Training losses."""
        return self.wrapped.loss(batch, generator)

    def encode_flops(self) -> float:
        """Floating-point operations of encoding a frame."""
        return self.wrapped.encode_flops()

    def rollout_flops(self, horizon: int) -> float:
        """Floating-point operations of a candidate."""
        return self.wrapped.rollout_flops(horizon)

    def imagine_flops(self) -> float:
        """Floating-point operations of `imagine`."""
        return self.wrapped.imagine_flops()
