"""Training the predictor of a checkpoint on, while its encoder stays as it is.

Most of a training step goes into the encoder. On latents that were computed once, the predictor sees six times as many
clips in the same time, and it is the predictor's error that planners exploit.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoint import Checkpoint, find
from .dataset import Trajectories, Windows, split
from .device import fast_bf16, keep_freed_memory, resolve_device
from .latents import OnProgress, check_fit, encode
from .model_card import model_card
from .train import learning_rate_factor


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """How to train the predictor on.

    Attributes:
        checkpoint: folder or name of the checkpoint; encoder and heads in it stay as they are.
        data: HDF5 file of trajectories, those of the world model or others of the same environment.
        out: folder for the new checkpoint; None puts it into `checkpoint` itself.
        steps: optimisation steps.
        batch_size: clips in a step.
        clip_length: L, frames of a clip.
        learning_rate: peak of a warm-up and half a cosine.
        weight_decay: of AdamW.
        warmup: share of the steps that warm up.
        validation: share of the episodes held out.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
    """

    checkpoint: str
    data: str
    out: str | None = None
    steps: int = 4_000
    batch_size: int = 512
    clip_length: int = 6
    learning_rate: float = 8e-4
    weight_decay: float = 1e-3
    warmup: float = 0.03
    validation: float = 0.05
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.clip_length < 2:
            raise ValueError(f"clip_length={self.clip_length} must be at least 2: a frame and the one to predict")


def train_predictor(config: PredictorConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the predictor on the latents, and saves the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a clip.
    """
    report = on_progress or (lambda task, done, total, text: None)
    began = time.perf_counter()
    keep_freed_memory()
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    model: Any = checkpoint.model
    trajectories = Trajectories.open(config.data)
    check_fit(checkpoint, trajectories)
    training, validation = (
        Windows(trajectories, episodes, config.clip_length, model.frameskip)
        for episodes in split(trajectories.num_episodes, config.validation, config.seed)
    )
    latents = encode(checkpoint, trajectories, device, report)
    before = evaluate_predictor(checkpoint, validation, latents)
    weights = list(model.predictor.requires_grad_(True).parameters())
    model.predictor.train()
    optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=config.weight_decay)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
        rng = np.random.default_rng([config.seed, step])
        losses = _losses(checkpoint, training, latents, config.batch_size, rng)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 20 == 0 or step + 1 == config.steps:
            report("training", step + 1, config.steps, f"loss {float(losses['loss'].detach()):.4f}")
    model.eval().requires_grad_(False)
    after = evaluate_predictor(checkpoint, validation, latents)
    facts = {
        **asdict(config),
        "frames": trajectories.num_frames,
        "validation": {**{f"{name} before": value for name, value in before.items()}, **after},
        "seconds": time.perf_counter() - began,
    }
    finished = replace(checkpoint, training={**checkpoint.training, "predictor": facts})
    finished.save(Path(config.out or find(config.checkpoint)), model_card(finished))
    return finished


@torch.no_grad()
def evaluate_predictor(
    checkpoint: Checkpoint, windows: Windows, latents: Tensor, num_clips: int = 4096
) -> dict[str, float]:
    """The predictor's losses on the same `num_clips` of `windows` each time."""
    losses = _losses(checkpoint, windows, latents, num_clips, np.random.default_rng(0))
    return {name: float(value) for name, value in losses.items()}


def _losses(
    checkpoint: Checkpoint, windows: Windows, latents: Tensor, num_clips: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Losses of random clips, as functions of the predictor's weights."""
    model: Any = checkpoint.model
    device = next(model.parameters()).device
    rows, action = windows.rows(rng.integers(len(windows), size=num_clips))
    clips = latents[torch.from_numpy(rows)].to(device).float()
    context = torch.Generator().manual_seed(int(rng.integers(2**31)))
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
        return model.prediction_losses(clips, checkpoint.normalizer.blocks(action, device), context)
