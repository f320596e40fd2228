"""Training the heads of a checkpoint: a goal-conditioned actor and a temporal distance on its frozen latents."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Checkpoint, find
from .dataset import DatasetError, Trajectories, split
from .device import fast_bf16, keep_freed_memory, resolve_device
from .latents import OnProgress, check_fit, encode
from .model_card import model_card
from .models import Heads
from .train import learning_rate_factor


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """How to train the heads.

    Attributes:
        checkpoint: folder or name of the checkpoint; the world model in it stays as it is.
        data: HDF5 file of trajectories, those of the world model or others of the same environment.
        out: folder for the checkpoint with heads; None puts them into `checkpoint` itself.
        steps: optimisation steps.
        batch_size: pairs of frames in a step.
        learning_rate: peak of a warm-up and half a cosine.
        weight_decay: of AdamW.
        warmup: share of the steps that warm up.
        width: hidden width of the actor.
        max_steps: the most model steps between the frames of a pair.
        validation: share of the episodes held out.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
    """

    checkpoint: str
    data: str
    out: str | None = None
    steps: int = 8_000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    warmup: float = 0.03
    width: int = 384
    max_steps: int = 25
    validation: float = 0.05
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "width", "max_steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")


def train_heads(config: HeadsConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the heads on the latents, and saves them inside the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a model step.
    """
    report = on_progress or (lambda task, done, total, text: None)
    began = time.perf_counter()
    keep_freed_memory()
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    trajectories = Trajectories.open(config.data)
    check_fit(checkpoint, trajectories)
    latents = encode(checkpoint, trajectories, device, report)
    training, validation = split(trajectories.num_episodes, config.validation, config.seed)
    pairs, held_out = (
        Pairs(checkpoint, trajectories, latents, episodes, config.max_steps) for episodes in (training, validation)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = Heads(
            latent_size=latents.shape[1],
            block_size=pairs.frameskip * trajectories.action_size,
            width=config.width,
            max_steps=config.max_steps,
        ).to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=0.0, weight_decay=config.weight_decay)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
        batch = pairs.sample(config.batch_size, np.random.default_rng([config.seed, step]), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            loss = heads.loss(*batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(heads.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            report("training", step + 1, config.steps, f"loss {float(loss.detach()):.4f}")
    heads.eval().requires_grad_(False)
    with torch.no_grad():
        losses = heads.loss(*held_out.sample(16_384, np.random.default_rng(0), device))
    facts = {
        **asdict(config),
        "frames": trajectories.num_frames,
        "validation": {name: float(value) for name, value in losses.items()},
        "seconds": time.perf_counter() - began,
    }
    finished = replace(checkpoint, heads=heads, training={**checkpoint.training, "heads": facts})
    finished.save(Path(config.out or find(config.checkpoint)), model_card(finished))
    return finished


class Pairs:
    """Pairs of frames of one trajectory, a whole number of model steps apart, and the block that leaves the first."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        trajectories: Trajectories,
        latents: Tensor,
        episodes: NDArray[np.int64],
        max_steps: int,
    ) -> None:
        self.frameskip: int = checkpoint.model.frameskip  # type: ignore[assignment]
        self._latents, self._action, self._normalizer = latents, trajectories.action, checkpoint.normalizer
        long_enough = trajectories.lengths[episodes] > self.frameskip
        self._offsets = trajectories.offsets[episodes][long_enough]
        self._lengths = trajectories.lengths[episodes][long_enough]
        self._max_steps = max_steps
        if len(self._offsets) == 0:
            raise DatasetError(f"{trajectories.path} has no episode of more than {self.frameskip} steps")

    def sample(self, num: int, rng: np.random.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and goals ``(num, D)``, model steps between them ``(num,)``, and blocks ``(num, F*A)``.

        Steps are log-uniform: near goals matter as much as far ones, for every plan ends near its goal.
        """
        episodes = rng.integers(len(self._offsets), size=num)
        lengths = self._lengths[episodes]
        most = np.minimum(self._max_steps, (lengths - 1) // self.frameskip)
        steps = np.floor(np.exp(rng.random(num) * np.log(most + 1))).astype(np.int64)
        start = (rng.random(num) * (lengths - steps * self.frameskip)).astype(np.int64) + self._offsets[episodes]
        blocks = self._action[start[:, None] + np.arange(self.frameskip)]
        return (
            self._latents[start].to(device).float(),
            self._latents[start + steps * self.frameskip].to(device).float(),
            torch.from_numpy(steps).to(device),
            self._normalizer.blocks(blocks, device),
        )
