"""Training the predictor of a checkpoint on, or a new one in its place, while its encoder stays as it is.

Most of a training step goes into the encoder. On latents that were computed once, the predictor sees six times as many
clips in the same time, and it is the predictor's error that planners exploit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16
from ..data.trajectories import Trajectories, Windows, shares, split
from ..errors import UserError
from ..models import MODELS
from .config import PredictorConfig
from .frozen_encoder import OnProgress, PartTraining, encode, open_all

Source = tuple[Windows, Tensor]
"""Clips of a file, and the latents of its frames."""


def train_predictor(config: PredictorConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the predictor on the latents, and saves the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a clip.
    """
    report = on_progress or (lambda task, done, total, text: None)
    began = time.perf_counter()
    old, files, device = open_all(config)
    checkpoint = with_new_predictor(old, config.model, config.seed) if config.model else old
    model: Any = checkpoint.model
    if config.model and model.history >= config.clip_length:
        raise UserError(f"model.history={model.history} must be less than clip_length={config.clip_length}")
    windows = [_windows(config, file, model.frameskip) for file in files]
    latents = encode(checkpoint, files, device, report)
    training, validation = ([*zip(part, latents, strict=True)] for part in zip(*windows, strict=True))
    before = evaluate_predictor(old, validation)
    predictor = model.predictor.requires_grad_(True).train()

    def loss(rng: np.random.Generator) -> Tensor:
        return _losses(checkpoint, training, config.batch_size, rng)["loss"]

    part = PartTraining(config, "predictor", predictor, began, goes_on=not config.model)
    state = part.optimize(loss, report)
    model.eval().requires_grad_(False)
    after = evaluate_predictor(checkpoint, validation)
    losses = {**{f"{name} before": value for name, value in before.items()}, **after}
    return part.save(checkpoint, state, losses, sum(file.num_frames for file in files))


def with_new_predictor(checkpoint: Checkpoint, settings: dict[str, Any], seed: int) -> Checkpoint:
    """`checkpoint` with an untrained predictor, made with `settings`, and all else as it is."""
    model_config = {**checkpoint.model_config, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[checkpoint.name](**model_config)
    weights = checkpoint.model.state_dict()
    kept = {name: weights[name] for name in weights if not name.startswith("predictor.")}
    model.load_state_dict({**model.state_dict(), **kept})
    device = next(checkpoint.model.parameters()).device
    return replace(checkpoint, model=model.to(device).eval().requires_grad_(False), model_config=model_config)


def _windows(config: PredictorConfig, file: Trajectories, frameskip: int) -> list[Windows]:
    """The clips to train on and the clips to validate on."""
    episodes = split(file.num_episodes, config.validation, config.seed)
    return [Windows(file, part, config.clip_length, frameskip) for part in episodes]


@torch.no_grad()
def evaluate_predictor(checkpoint: Checkpoint, sources: Sequence[Source], num_clips: int = 4096) -> dict[str, float]:
    """The predictor's losses on the same `num_clips` of `sources` each time."""
    losses = _losses(checkpoint, sources, num_clips, np.random.default_rng(0))
    return {name: float(value) for name, value in losses.items()}


def _losses(
    checkpoint: Checkpoint, sources: Sequence[Source], num_clips: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Losses of random clips, as many of each source, as functions of the predictor's weights."""
    model: Any = checkpoint.model
    device = next(model.parameters()).device
    clips, actions = [], []
    for (windows, encoded), num in zip(sources, shares(num_clips, len(sources)), strict=True):
        rows, action = windows.rows(rng.integers(len(windows), size=num))
        clips.append(encoded[torch.from_numpy(rows)])
        actions.append(action)
    context = torch.Generator().manual_seed(int(rng.integers(2**31)))
    latents = torch.cat(clips).to(device).float()
    blocks = checkpoint.normalizer.blocks(np.concatenate(actions), device)
    with autocast(device, fast_bf16(device)):
        return model.prediction_losses(latents, blocks, context)
