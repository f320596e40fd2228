"""The belief of models that remember their newest latents, and what they have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..protocols import Belief
from .base import LatentPredictor, checked


class Window(NamedTuple):
    """The newest H latents of B episodes and the action blocks between them, oldest first.

    Places before the first frame of an episode are zeros, so that episodes of any age fit into one batch.
    """

    latents: Tensor  # (B, H, *Z)
    actions: Tensor  # (B, H - 1, F*A), normalised
    length: Tensor  # (B,): frames seen, at most H

    @property
    def latent(self) -> Tensor:
        """Latent of the newest frame, ``(B, *Z)``."""
        return self.latents[:, -1]

    @property
    def history(self) -> int:
        """H."""
        return self.latents.shape[1]

    def append(self, block: Tensor, latent: Tensor) -> Window:
        """The window after one more action block ``(B, F*A)``, which leads to `latent` ``(B, *Z)``."""
        latents = torch.cat([self.latents[:, 1:], latent.unsqueeze(1)], dim=1)
        actions = torch.cat([self.actions, block.unsqueeze(1)], dim=1)[:, 1:]
        return Window(latents, actions, (self.length + 1).clamp_max(self.history))


def make_window(latents: Tensor, actions: Tensor, history: int) -> Window:
    """The window of H = `history` frames that ends with `latents` ``(B, n, *Z)`` and `actions` ``(B, n - 1, F*A)``."""
    missing = history - latents.shape[1]
    tokens = (0, 0) * (latents.ndim - 2)
    length = torch.full((len(latents),), latents.shape[1], device=latents.device)
    return Window(F.pad(latents, (*tokens, missing, 0)), F.pad(actions, (0, 0, missing, 0)), length)


class WindowModel(LatentPredictor):
    """A model whose belief is a `Window` of its newest `history` frames."""

    history: int

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Latents ``(N, *Z)`` of frames ``(N, C, h, w)``."""

    def begin(self, pixels: Tensor) -> Window:
        """Implements `WorldModel`."""
        latents = self.embed(pixels).unsqueeze(1)
        return make_window(latents, latents.new_zeros(len(latents), 0, self.block_size), self.history)

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Window:
        """Implements `WorldModel`."""
        return checked(belief, Window).append(block, self.embed(pixels))

    @property
    def min_clip_length(self) -> int:
        """Implements `LatentPredictor`: shorter clips would leave the last places of the window untrained."""
        return self.history + 1
