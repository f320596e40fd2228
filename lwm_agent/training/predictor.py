"""Training of the predictor of a checkpoint, or of a new one in its place, the encoder frozen.

Most of a training step goes into the encoder. On latents that were computed once, the predictor sees six times as many
clips in the same time, and it is the predictor's error that planners exploit.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16
from ..data.clips import Windows
from ..errors import UserError
from ..models import MODELS, LatentPredictor
from .config import PredictorConfig
from .frozen_encoder import PartTrainer, encode_all, open_all
from .held_out import follow_splits
from .latent_cache import OnProgress, affordable
from .latent_clips import LatentMixture


def train_predictor(config: PredictorConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the predictor on the latents, and saves the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a clip.
    """
    report = on_progress or (lambda task, done, total, text: None)
    started_at = time.perf_counter()
    old, files, device = open_all(config)
    checkpoint = with_new_predictor(old, config.model_settings, config.seed) if config.model_settings else old
    model = latent_predictor(checkpoint)
    if config.clip_length < model.min_clip_length:
        raise UserError(f"clip_length={config.clip_length} must be at least {model.min_clip_length} for this predictor")
    earlier = None if config.model_settings else checkpoint.training.get("predictor")
    records = follow_splits(checkpoint.training, files, config, earlier)
    windows = [
        [Windows(file, part, config.clip_length, model.frameskip) for part in record.split(file)]
        for record, file in zip(records, files, strict=True)
    ]
    trainer = PartTrainer(config, "predictor", model.predictor, records, started_at, earlier)
    trainer.check()
    latents = encode_all(config, checkpoint, files, device, report)
    training, validation = (LatentMixture(part, latents) for part in zip(*windows, strict=True))
    before = evaluate_predictor(old, validation)
    model.predictor.requires_grad_(True).train()

    def loss(rng: np.random.Generator) -> Tensor:
        return _losses(checkpoint, training, config.batch_size, rng)["loss"]

    state = trainer.optimize(loss, report)
    model.eval().requires_grad_(False)
    after = evaluate_predictor(checkpoint, validation)
    losses = {**{f"{name} before": value for name, value in before.items()}, **after}
    return trainer.save(checkpoint, state, losses, sum(file.num_frames for file in files))


def latent_predictor(checkpoint: Checkpoint) -> LatentPredictor:
    """The model of `checkpoint`.

    Raises:
        UserError: it has no predictor that could be trained by itself.
    """
    if not isinstance(checkpoint.model, LatentPredictor):
        raise UserError(
            f"a {checkpoint.name} model has no predictor that can be trained by itself: use `lwm-agent train`"
        )
    return checkpoint.model


def with_new_predictor(checkpoint: Checkpoint, settings: dict[str, Any], seed: int) -> Checkpoint:
    """`checkpoint` with an untrained predictor, made with `settings`, and all else as it is.

    Raises:
        UserError: a setting that is not the predictor's.
    """
    choices = latent_predictor(checkpoint).predictor_settings
    for name in settings.keys() - {*choices}:
        raise UserError(f"model.{name} is not of the predictor: choose among {', '.join(choices)}")
    model_config = {**checkpoint.model_config, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[checkpoint.name].build(model_config)
    weights = checkpoint.model.state_dict()
    kept = {name: weights[name] for name in weights if not name.startswith("predictor.")}
    model.load_state_dict({**model.state_dict(), **kept})
    device = next(checkpoint.model.parameters()).device
    return replace(checkpoint, model=model.to(device).eval().requires_grad_(False), model_config=model_config)


@torch.no_grad()
def evaluate_predictor(checkpoint: Checkpoint, clips: LatentMixture, num_clips: int = 4096) -> dict[str, float]:
    """The predictor's losses on the same `num_clips` of `clips` each time; on fewer if latents are large."""
    num_clips = affordable(num_clips, clips.latents[0], clips.windows[0].clip_length)
    losses = _losses(checkpoint, clips, num_clips, np.random.default_rng(0))
    return {name: float(value) for name, value in losses.items()}


def _losses(
    checkpoint: Checkpoint, clips: LatentMixture, num_clips: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Losses of random clips, as many of each file, as functions of the predictor's weights."""
    model = latent_predictor(checkpoint)
    device = next(model.parameters()).device
    sample = clips.sample(num_clips, rng)
    context = torch.Generator().manual_seed(int(rng.integers(2**31)))
    latents, blocks = sample.on(device, checkpoint.normalizer)
    with autocast(device, fast_bf16(device)):
        return model.prediction_losses(latents, blocks, context)
