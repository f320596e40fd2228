"""Latents along recorded clips: of their frames, of imagined frames, and of painted ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16
from ..data.clips import Windows
from ..models import LatentModel, WorldModel
from ..protocols import Belief

CONTEXT = 3
"""Frames that a belief has seen before its latent counts: as many as the published models remember."""

CHUNK = 512
"""Frames that are encoded together."""


@dataclass(frozen=True)
class ClipLatents:
    """Latents of B clips, as summaries of D numbers, on the CPU. The first is that of the frame `CONTEXT` of a clip.

    Attributes:
        seen: latents of the frames, ``(B, 1 + T, D)``.
        imagined: latents after each of T recorded blocks, imagined from the first frame alone, ``(B, T, D)``; None of a
            model that imagines nothing.
        painted: latents of pictures of `seen`, ``(B, 1 + T, D)``; None where nothing paints.
    """

    seen: Tensor
    imagined: Tensor | None = None
    painted: Tensor | None = None


def encode_clips(
    checkpoint: Checkpoint,
    windows: Windows,
    indices: NDArray[np.int64],
    device: torch.device,
    *,
    ahead: bool = False,
    on_chunk: Callable[[int], object] = lambda clips: None,
) -> ClipLatents:
    """Latents of the clips with these numbers, as the agent's beliefs have them after the frames before.

    So latents of a recurrent model hold what it remembers. Those of models that encode each frame by itself are those
    of the frame.

    Args:
        checkpoint: its model encodes.
        windows: clips of at least `CONTEXT` frames.
        indices: numbers of the clips.
        device: where the model is.
        ahead: whether to imagine and to paint too.
        on_chunk: called with the number of clips of each chunk that is done.
    """
    size = max(1, CHUNK // windows.clip_length)
    parts: list[list[Tensor | None]] = []
    for start in range(0, len(indices), size):
        clips = windows.at(indices[start : start + size])
        blocks = checkpoint.normalizer.blocks(clips.env_action, device)
        parts.append(_latents(checkpoint, clips.pixels, blocks, device, ahead))
        on_chunk(len(blocks))
    seen, imagined, painted = (joined(column) for column in zip(*parts, strict=True))
    assert seen is not None
    return ClipLatents(seen, imagined, painted)


@torch.no_grad()
def _latents(
    checkpoint: Checkpoint, pixels: NDArray[np.uint8], blocks: Tensor, device: torch.device, ahead: bool
) -> list[Tensor | None]:
    """Summaries of a chunk: `seen`, `imagined` and `painted` of `ClipLatents`."""
    model = checkpoint.model
    with autocast(device, fast_bf16(device)):
        beliefs = _beliefs(model, checkpoint.normalizer.pixels(pixels, device), blocks)
        now, future = beliefs[CONTEXT - 1], blocks[:, CONTEXT - 1 :]
        latents: list[Tensor | None] = [_stacked(beliefs)[:, CONTEXT - 1 :], None, None]
        if ahead and isinstance(model, WorldModel) and future.shape[1] > 0:
            latents[1] = model.rollout(now, future[:, None])[:, 0]
        if ahead and checkpoint.paints:
            pictures = checkpoint.paint(_stacked(beliefs).flatten(0, 1)).reshape(pixels.shape)
            repainted = _beliefs(model, checkpoint.normalizer.pixels(pictures, device), blocks)
            latents[2] = _stacked(repainted)[:, CONTEXT - 1 :]
    return [None if part is None else model.summary(part.float()).cpu() for part in latents]


def _beliefs(model: LatentModel, pixels: Tensor, blocks: Tensor) -> list[Belief]:
    """Beliefs after each frame of clips of `pixels` ``(B, L, C, h, w)`` with `blocks` ``(B, L - 1, F*A)`` between."""
    beliefs = [model.begin(pixels[:, 0])]
    for block, frame in zip(blocks.unbind(1), pixels[:, 1:].unbind(1), strict=True):
        beliefs.append(model.observe(beliefs[-1], block, frame))
    return beliefs


def _stacked(beliefs: Sequence[Belief]) -> Tensor:
    """Their latents, ``(B, L, *Z)``."""
    return torch.stack([belief.latent for belief in beliefs], dim=1)


def joined(parts: Iterable[Tensor | None]) -> Tensor | None:
    """All `parts` in a row, None where there are none."""
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
