"""Painters beside a world model: what the reconstruction loss asks of a latent. No planner uses them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WAVES = (0.5, 1.0, 2.0, 4.0)
"""Periods of the waves that say where a pixel is, in half widths of a picture."""


class Reconstruction(nn.Module, ABC):
    """Painter of frames from latents, which learns beside the world model.

    Args:
        latent_size: D.
    """

    @abstractmethod
    def loss(self, latents: Tensor, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error of painting `frames` ``(N, C, h, w)`` from `latents` ``(N, D)``.

        Args:
            latents: of the frames.
            frames: as the encoder sees them.
            generator: source of what is drawn, on the CPU.
        """


class Thumbnail(nn.Sequential, Reconstruction):
    """Paints a frame at 16 x 16 px at once, by two linear maps."""

    SIDE = 16

    def __init__(self, latent_size: int) -> None:
        hidden = 2 * latent_size
        super().__init__(nn.Linear(latent_size, hidden), nn.GELU(), nn.Linear(hidden, 3 * self.SIDE**2))

    def loss(self, latents: Tensor, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Implements `Reconstruction`."""
        return F.mse_loss(self(latents).float(), F.adaptive_avg_pool2d(frames, self.SIDE).flatten(1))


class Pixels(Reconstruction):
    """Paints single pixels of a frame at 32 x 32 px, half of them where frames of the batch differ.

    One small network answers for every place, as in the spatial broadcast decoder (arXiv 1901.07017): what it learns of
    an edge at one place, it knows at all of them. So it soon paints a block at any pose, and can ask the latent for it.
    """

    SIDE, SAMPLES, WIDTH = 32, 64, 128

    places: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        axis = torch.linspace(-1, 1, self.SIDE, device="cpu")  # a buffer: moves with the module
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
        waves = [wave(math.pi * number * places) for number in WAVES for wave in (torch.sin, torch.cos)]
        self.register_buffer("places", torch.cat([places, *waves], dim=-1), persistent=False)
        self.place = nn.Linear(self.places.shape[1], self.WIDTH)
        self.scale, self.shift = nn.Linear(latent_size, self.WIDTH), nn.Linear(latent_size, self.WIDTH)
        self.layers = nn.Sequential(
            *(nn.GELU(), nn.Linear(self.WIDTH, self.WIDTH), nn.GELU(), nn.Linear(self.WIDTH, self.WIDTH)),
            *(nn.GELU(), nn.Linear(self.WIDTH, 3)),
        )

    def loss(self, latents: Tensor, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Implements `Reconstruction`."""
        pictures = F.adaptive_avg_pool2d(frames, self.SIDE)
        drawn = torch.rand(len(frames), self.SAMPLES, generator=generator).to(frames.device)
        # A draw next to 1 may lie above a sum that rounding has left below it.
        chosen = torch.searchsorted(_chances(pictures).cumsum(1), drawn).clamp(max=self.SIDE**2 - 1)
        asked = pictures.flatten(2).transpose(1, 2).gather(1, chosen[..., None].expand(-1, -1, 3))
        scale, shift = self.scale(latents).unsqueeze(1), self.shift(latents).unsqueeze(1)
        return F.mse_loss(self.layers(self.place(self.places)[chosen] * (1 + scale) + shift).float(), asked)


def _chances(pictures: Tensor) -> Tensor:
    """Chance of each pixel of ``(N, C, h, w)``, ``(N, h * w)``: even, and near what differs from the mean picture."""
    differs = (pictures - pictures.mean(0)).square().sum(1, keepdim=True)
    near = F.avg_pool2d(differs, 5, stride=1, padding=2).flatten(1) + torch.finfo(torch.float32).eps
    return 0.5 * near / near.sum(1, keepdim=True) + 0.5 / near.shape[1]


RECONSTRUCTIONS: dict[str, Callable[[int], Reconstruction]] = {"thumbnail": Thumbnail, "pixels": Pixels}
