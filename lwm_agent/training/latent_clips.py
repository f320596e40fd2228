"""Training clips of latents that were encoded once, for models whose encoder stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.clips import Windows, shares
from ..normalizer import Normalizer


class LatentClips(NamedTuple):
    """B clips: the latents of every F-th frame, and the F actions between two of them."""

    latents: Tensor  # (B, L, *Z), in half precision
    env_action: NDArray[np.float32]  # (B, L - 1, F, A)

    def on(self, device: torch.device, normalizer: Normalizer) -> tuple[Tensor, Tensor]:
        """Latents ``(B, L, *Z)`` in float32 and normalised blocks ``(B, L - 1, F*A)``, on `device`."""
        return self.latents.to(device).float(), normalizer.blocks(self.env_action, device)


@dataclass(frozen=True)
class LatentMixture:
    """Clips of several files, each of which fills the same share of every batch, however long it is.

    Attributes:
        windows: clips of each file.
        latents: latents ``(N, *Z)`` of all frames of each file.
    """

    windows: Sequence[Windows]
    latents: Sequence[Tensor]

    def sample(self, num: int, rng: np.random.Generator) -> LatentClips:
        """`num` clips; of one file, each uniform over all of them."""
        clips, actions = [], []
        for windows, latents, share in zip(self.windows, self.latents, shares(num, len(self.windows)), strict=True):
            rows, action = windows.rows(rng.integers(len(windows), size=share))
            clips.append(latents[torch.from_numpy(rows)])
            actions.append(action)
        return LatentClips(torch.cat(clips), np.concatenate(actions))
