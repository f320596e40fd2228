"""Latents of all frames of a data set, for what is trained while the encoder stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .conventions import mismatch, other_env
from .dataset import DatasetError, Trajectories
from .device import fast_bf16

OnProgress = Callable[[str, int, int, str], None]
"""Called with what is being done, how much of it is, the total, and what there is to say."""


def check_fit(checkpoint: Checkpoint, data: Trajectories) -> None:
    """Refuses data in which things look or act otherwise than in those that the world model was trained on."""
    size = checkpoint.model.image_size
    if data.image_size != size:
        raise DatasetError(
            f"{data.path} has {data.image_size}-px frames and the checkpoint sees {size}: "
            f"collect with --image-size {size}"
        )
    if data.env_id is None:
        return  # the file does not say
    other = other_env(checkpoint.env, data.env_id)
    if other is not None:
        raise DatasetError(
            f"{data.path} was recorded in {other} and the checkpoint was trained for {checkpoint.env}: "
            f"collect with --env {checkpoint.env}"
        )
    same = {"image_size": size}  # the frames told, whether the arguments do or not
    differing = mismatch(checkpoint.env, {**checkpoint.env_kwargs, **same}, {**data.env_kwargs, **same})
    if differing is not None:
        raise DatasetError(
            f"{data.path} has {differing.given} and the checkpoint was trained with {differing.trained}: "
            f"collect with {differing.options}, or train a world model on {data.path} first"
        )


@torch.no_grad()
def encode(
    checkpoint: Checkpoint, trajectories: Trajectories, device: torch.device, report: OnProgress, chunk: int = 512
) -> Tensor:
    """Latents ``(N, D)`` of all frames, in half precision on the CPU."""
    model, parts, total = checkpoint.model, [], trajectories.num_frames
    for start in range(0, total, chunk):
        rows = np.arange(start, min(start + chunk, total))
        pixels = checkpoint.normalizer.pixels(trajectories.frames(rows), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            parts.append(model.embed(pixels).half().cpu())  # type: ignore[operator]
        report("encoding", len(rows) + start, total, "")
    return torch.cat(parts)
