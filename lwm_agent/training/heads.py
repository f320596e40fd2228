"""Training the heads of a checkpoint on its frozen latents: an actor, a temporal distance, and maybe a contrast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16
from ..data.clips import shares
from ..data.trajectories import DatasetError, Trajectories
from ..models import Heads
from .config import HeadsConfig
from .frozen_encoder import PartTrainer, encode_all, open_all
from .held_out import follow_splits
from .latent_cache import OnProgress, affordable


def train_heads(config: HeadsConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the heads on the latents, and saves them inside the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a model step.
    """
    report = on_progress or (lambda task, done, total, text: None)
    started_at = time.perf_counter()
    checkpoint, files, device = open_all(config)
    if checkpoint.normalizer.discrete:
        raise DatasetError("heads need continuous actions; plan discrete ones with categorical-cem, which needs none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = Heads(
            latent_size=checkpoint.model.summary_size,
            block_size=checkpoint.model.block_size,
            width=config.width,
            max_steps=config.max_steps,
            contrast=config.contrast_steps > 0,
        ).to(device)
    records = follow_splits(checkpoint.training, files, config)
    trainer = PartTrainer(config, "heads", heads, records, started_at)
    trainer.check()
    splits = [record.split(file) for record, file in zip(records, files, strict=True)]
    pairs: list[Pairs] = []
    held_out: list[Pairs] = []
    for file, latents, episodes in zip(
        files, encode_all(config, checkpoint, files, device, report), splits, strict=True
    ):
        for part, numbers in zip((pairs, held_out), episodes, strict=True):
            part.append(Pairs(checkpoint, file, latents, numbers, config.max_steps))

    def losses_of(sources: Sequence[Pairs], num: int, rng: np.random.Generator) -> dict[str, Tensor]:
        losses = heads.loss(*sample(sources, num, rng, device))
        if heads.contrast is not None:  # of so few in validation too: it is the harder, the more there are
            first, later, _, _ = sample(sources, min(num, config.batch_size), rng, device, config.contrast_steps)
            losses["contrast"] = heads.contrast.loss(first, later)
            losses["loss"] = losses["loss"] + losses["contrast"]
        return losses

    def loss(rng: np.random.Generator) -> Tensor:
        with autocast(device, fast_bf16(device)):
            return losses_of(pairs, config.batch_size, rng)["loss"]

    state = trainer.optimize(loss, report)
    heads.eval().requires_grad_(False)
    if heads.contrast is not None:
        first, later, _, _ = sample(pairs, 4096, np.random.default_rng(0), device, near=1)
        heads.contrast.measure_step(first, later)
    num = affordable(16_384, held_out[0].latents, 2)
    losses = losses_of(held_out, num, np.random.default_rng(0))
    validation = {name: float(value) for name, value in losses.items()}
    return trainer.save(replace(checkpoint, heads=heads), state, validation, sum(file.num_frames for file in files))


def sample(
    sources: Sequence[Pairs], num: int, rng: np.random.Generator, device: torch.device, near: int = 0
) -> list[Tensor]:
    """`num` pairs, as many of each source; see `Pairs.sample`."""
    parts = [
        part.sample(share, rng, device, near) for part, share in zip(sources, shares(num, len(sources)), strict=True)
    ]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


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
        self.frameskip, self._summary = checkpoint.model.frameskip, checkpoint.model.summary
        self.latents, self._action, self._normalizer = latents, trajectories.action, checkpoint.normalizer
        long_enough = trajectories.lengths[episodes] > self.frameskip
        self._offsets = trajectories.offsets[episodes][long_enough]
        self._lengths = trajectories.lengths[episodes][long_enough]
        self._max_steps = max_steps
        if len(self._offsets) == 0:
            raise DatasetError(f"{trajectories.path} has no episode of more than {self.frameskip} steps")

    def sample(
        self, num: int, rng: np.random.Generator, device: torch.device, near: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and goals ``(num, D)``, model steps between them ``(num,)``, and blocks ``(num, F*A)``.

        Steps are log-uniform: near goals matter as much as far ones, for every plan ends near its goal. With `near`,
        they are uniform from 1 to `near`.
        """
        episodes = rng.integers(len(self._offsets), size=num)
        lengths = self._lengths[episodes]
        most = np.minimum(self._max_steps, (lengths - 1) // self.frameskip)
        if near:
            steps = 1 + np.floor(rng.random(num) * np.minimum(near, most)).astype(np.int64)
        else:
            steps = np.floor(np.exp(rng.random(num) * np.log(most + 1))).astype(np.int64)
        start = (rng.random(num) * (lengths - steps * self.frameskip)).astype(np.int64) + self._offsets[episodes]
        blocks = self._action[start[:, None] + np.arange(self.frameskip)]
        return (
            self._summary(self.latents[start].to(device).float()),
            self._summary(self.latents[start + steps * self.frameskip].to(device).float()),
            torch.from_numpy(steps).to(device),
            self._normalizer.blocks(blocks, device),
        )
