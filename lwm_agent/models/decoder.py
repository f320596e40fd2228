"""Pictures of latents: a decoder that is trained on a frozen world model, to look at what it imagines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .dreamer_nets import ImageDecoder

UNITS, DEPTH, KERNEL, STEM = 160, 24, 3, 2


class Decoder(nn.Module):
    """Summaries of latents ``(N, D)`` to normalised frames ``(N, C, h, w)``.

    Nothing else uses it: an agent acts the same with and without one.

    Args:
        latent_size: D.
        image_size: h and w, px.
    """

    def __init__(self, *, latent_size: int, image_size: int) -> None:
        super().__init__()
        if image_size % 16:
            raise UserError(f"image_size={image_size} must be a multiple of 16 for a decoder")
        self.settings = {"latent_size": latent_size, "image_size": image_size}
        self.record: dict[str, Any] = {}  # of its training, for the model card
        self.register_buffer("mean", torch.zeros(3, image_size, image_size))
        self.register_buffer("spread", torch.ones(()))
        self.body = ImageDecoder(latent_size, UNITS, image_size, DEPTH, KERNEL, STEM)

    mean: Tensor
    spread: Tensor

    def calibrate(self, frames: Tensor) -> None:
        """Takes the mean picture of normalised `frames` ``(N, C, h, w)``, and how far pixels are from it."""
        self.mean.copy_(frames.mean(0))
        self.spread.copy_((frames - self.mean).square().mean())

    def forward(self, latents: Tensor) -> Tensor:
        """The frames, in float32."""
        painted: Tensor = self.body(latents)
        return self.mean + painted

    def loss(self, latents: Tensor, frames: Tensor, focus: float) -> Tensor:
        """Mean squared error of normalised `frames` ``(N, C, h, w)``; unusual pixels weigh up to ``1 + focus`` times.

        A pixel is unusual where it is far from the mean picture: the agent of Push-T has 20 of 4,096 pixels, and would
        otherwise be left out.
        """
        far = (frames - self.mean).square().mean(dim=1, keepdim=True)
        weight = 1 + focus * far / (far + self.spread)
        error = (self(latents) - frames).square().mean(dim=1, keepdim=True)
        return (weight * error).mean() / weight.mean()
