"""The belief of models that remember their newest latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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
