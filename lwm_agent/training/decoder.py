"""Training a decoder of a checkpoint: pictures of its frozen latents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16
from ..data.clips import random_rows, shares
from ..data.trajectories import Trajectories
from ..models import Decoder
from .config import DecoderConfig
from .frozen_encoder import PartTrainer, encode_all, open_all
from .held_out import follow_splits
from .latent_cache import OnProgress

CALIBRATION, VALIDATION, CHUNK = 2048, 2048, 256  # frames


def train_decoder(config: DecoderConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains a decoder on latents and frames, and saves it beside the checkpoint's other files.

    Raises:
        DatasetError: the data does not fit the checkpoint.
        UserError: the frames have a size that cannot be painted.
    """
    report = on_progress or (lambda task, done, total, text: None)
    started_at = time.perf_counter()
    checkpoint, files, device = open_all(config, in_memory="auto")  # frames are drawn at random
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = Decoder(latent_size=checkpoint.model.summary_size, image_size=checkpoint.model.image_size).to(device)
    records = follow_splits(checkpoint.training, files, config)
    trainer = PartTrainer(config, "decoder", decoder, records, started_at)
    trainer.check()
    splits = [record.split(file) for record, file in zip(records, files, strict=True)]
    latents = encode_all(config, checkpoint, files, device, report)
    train, held_out = (
        [Frames(*parts) for parts in zip(files, latents, numbers, strict=True)] for numbers in zip(*splits, strict=True)
    )
    decoder.calibrate(sample(checkpoint, train, CALIBRATION, np.random.default_rng(config.seed), device)[1])

    def loss(rng: np.random.Generator) -> Tensor:
        summaries, frames = sample(checkpoint, train, config.batch_size, rng, device)
        with autocast(device, fast_bf16(device)):
            return decoder.loss(summaries, frames, config.focus)

    state = trainer.optimize(loss, report)
    decoder.eval().requires_grad_(False)
    validation = measure(checkpoint, decoder, held_out, device)
    decoder.record = trainer.record(state, validation, sum(file.num_frames for file in files))
    return trainer.finish(replace(checkpoint, decoder=decoder), state)


@dataclass(frozen=True)
class Frames:
    """Frames of some episodes of a file, and their latents.

    Attributes:
        file: the file.
        latents: latents ``(N, *Z)`` of all of its frames.
        episodes: numbers of the episodes.
    """

    file: Trajectories
    latents: Tensor
    episodes: NDArray[np.int64]


def sample(
    checkpoint: Checkpoint, sources: Sequence[Frames], num: int, rng: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Summaries of latents ``(num, D)`` and their normalised frames ``(num, C, h, w)``, as many of each source."""
    summaries, frames = [], []
    for source, share in zip(sources, shares(num, len(sources)), strict=True):
        rows = random_rows(source.file, source.episodes, share, rng)
        summaries.append(checkpoint.model.summary(source.latents[torch.from_numpy(rows)].to(device).float()))
        frames.append(checkpoint.normalizer.pixels(source.file.frames(rows), device))
    return torch.cat(summaries), torch.cat(frames)


@torch.no_grad()
def measure(
    checkpoint: Checkpoint, decoder: Decoder, sources: Sequence[Frames], device: torch.device
) -> dict[str, float]:
    """Errors on held-out frames.

    `pixel_error` is the mean difference of a colour, of 255 levels; `unusual_error` that of the pixels that are
    farthest from the mean picture, a fiftieth of all. `latent_error` says what the painted picture has lost: the
    squared difference of its own latent from the one that was painted, over the variance of latents.
    """
    summaries, frames = sample(checkpoint, sources, VALIDATION, np.random.default_rng(0), device)
    units, model = checkpoint.normalizer, checkpoint.model
    pictures = [units.frames(decoder(part)) for part in summaries.split(CHUNK)]
    error = np.abs(np.concatenate(pictures).astype(int) - units.frames(frames)).mean(axis=-1)
    far = (frames - decoder.mean).square().mean(dim=1).cpu().numpy()
    again = torch.cat([model.summary(model.embed(units.pixels(part, device))) for part in pictures])
    lost = (again - summaries).square().mean() / summaries.var(dim=0).mean()
    return {
        "pixel_error": float(error.mean()),
        "unusual_error": float(error[far >= np.quantile(far, 0.98)].mean()),
        "latent_error": float(lost),
    }
