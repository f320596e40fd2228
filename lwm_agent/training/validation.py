"""Validation of a world model, and the statistics of BatchNorm that it is validated with."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from ..checkpoint import Checkpoint
from ..data.clips import Clips, Mixture
from ..envs import spec_of
from .batches import to_batch
from .config import TrainConfig
from .monitors import collapse_monitors, collapse_warning, probe


@torch.no_grad()
def validate(checkpoint: Checkpoint, windows: Mixture, env: str, num_clips: int = 512) -> dict[str, float]:
    """Losses, collapse monitors and linear probes on the same `num_clips` validation clips each time.

    Warns (`RuntimeWarning`) when the latents are collapsing.
    """
    model, losses, summaries = checkpoint.model.eval(), [], []
    device = next(model.parameters()).device
    clips = windows.sample(num_clips, np.random.default_rng(0), goals=model.needs_goals)
    for part in range(0, num_clips, 64):
        some = Clips(*(None if column is None else column[part : part + 64] for column in clips))  # type: ignore[arg-type]
        batch = to_batch(some, checkpoint.normalizer, device)
        losses.append(model.loss(batch, torch.Generator().manual_seed(part)))
        summaries.append(model.summary(model.embed(batch.pixels.flatten(0, 1))).cpu())
    values = {name: float(torch.stack([loss[name] for loss in losses]).mean()) for name in losses[0]}
    latents = torch.cat(summaries)
    monitors = collapse_monitors(latents)
    remedy = model.collapse_remedy
    warning = None if remedy is None else collapse_warning(monitors, latents.shape[1], windows.num_frames, remedy)
    if warning is not None:
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
    spec = spec_of(env)
    if spec is not None and clips.state is not None:
        state = clips.state.reshape(-1, clips.state.shape[-1])
        targets = {name: columns for name, columns in spec.probes.items() if max(columns) < state.shape[1]}
        episodes = windows.episodes(num_clips, np.random.default_rng(0)).repeat(clips.pixels.shape[1])
        monitors.update(probe(latents, state, targets, episodes))
    return {**values, **monitors, **model.monitors(latents)}


@torch.no_grad()
def recalibrate_batch_norm(
    checkpoint: Checkpoint, windows: Mixture, config: TrainConfig, num_batches: int = 50
) -> None:
    """Replaces the running statistics of BatchNorm by exact means over training clips ("precise BN").

    The moving averages lag behind the weights so much that the prediction error in evaluation mode can be 300 times
    that of training (arXiv 2608.10145).
    """
    norms = [module for module in checkpoint.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    device = next(checkpoint.model.parameters()).device
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean instead of an exponential one
    checkpoint.model.eval()
    for norm in norms:
        norm.train()  # dropout stays off: it would change the statistics
    for index in range(num_batches):
        rng = np.random.default_rng([config.seed, index])
        clips = windows.sample(config.batch_size, rng, goals=checkpoint.model.needs_goals)
        batch = to_batch(clips, checkpoint.normalizer, device)
        checkpoint.model.loss(batch, torch.Generator().manual_seed(index))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    checkpoint.model.eval()
