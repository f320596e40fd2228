"""Training the heads of a checkpoint on its frozen latents: an actor, a temporal distance, and maybe a contrast."""

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
from ..data.clips import shares
from ..data.trajectories import DatasetError, Trajectories
from ..models import Heads
from .config import HeadsConfig
from .frozen_encoder import PartTrainer, encode_all, open_all
from .held_out import follow_splits
from .latent_cache import OnProgress, affordable


def train_heads(config: HeadsConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the heads on the latents, and saves them inside the checkpoint.

    A contrast learns before the others, which see its embedding.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a model step.
    """
    report = on_progress or (lambda task, done, total, text: None)
    started_at = time.perf_counter()
    checkpoint, files, device = open_all(config)
    if checkpoint.normalizer.discrete:
        raise DatasetError("heads need continuous actions; plan discrete ones with categorical-cem, which needs none")
    heads = _new_heads(config, checkpoint).to(device)
    records = follow_splits(checkpoint.training, files, config)
    trainer = PartTrainer(config, "heads", heads, records, started_at)
    before = [] if heads.contrast is None else [PartTrainer(config, "contrast", heads.contrast, records, started_at)]
    for each in (*before, trainer):
        each.check()
    splits = [record.split(file) for record, file in zip(records, files, strict=True)]
    latents = encode_all(config, checkpoint, files, device, report)
    lessons, exam = (
        _Lessons(
            config,
            heads,
            device,
            [
                Pairs(checkpoint, file, encoded, split[part], config.max_steps)
                for file, encoded, split in zip(files, latents, splits, strict=True)
            ],
        )
        for part in range(2)
    )
    finished = [each.optimize(lessons.contrast, report) for each in before]
    if heads.contrast is not None:
        heads.contrast.eval().requires_grad_(False)
        first, later, _, _ = lessons.sample(4096, np.random.default_rng(0), near=1)
        heads.contrast.measure_step(first, later)
    state = trainer.optimize(lessons.pairs, report)
    heads.eval().requires_grad_(False)
    validation = exam.losses(affordable(16_384, latents[0], 2))
    trained = trainer.save(replace(checkpoint, heads=heads), state, validation, sum(file.num_frames for file in files))
    for each_state in finished:
        each_state.discard()
    return trained


def _new_heads(config: HeadsConfig, checkpoint: Checkpoint) -> Heads:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Heads(
            latent_size=checkpoint.model.summary_size,
            block_size=checkpoint.model.block_size,
            width=config.width,
            max_steps=config.max_steps,
            contrast=config.contrast_steps > 0,
        )


@dataclass(frozen=True)
class _Lessons:
    """What heads learn from, or are examined with: pairs of frames of several files."""

    config: HeadsConfig
    heads: Heads
    device: torch.device
    sources: Sequence[Pairs]

    def pairs(self, rng: np.random.Generator) -> Tensor:
        """Loss of actor and distance, of a random batch."""
        with autocast(self.device, fast_bf16(self.device)):
            return self.heads.loss(*self.sample(self.config.batch_size, rng))["loss"]

    def contrast(self, rng: np.random.Generator) -> Tensor:
        """Loss of the contrast, of a random batch."""
        assert self.heads.contrast is not None
        first, later, _, _ = self.sample(self.config.batch_size, rng, near=self.config.contrast_steps)
        with autocast(self.device, fast_bf16(self.device)):
            return self.heads.contrast.loss(first, later)

    @torch.no_grad()
    def losses(self, num: int) -> dict[str, float]:
        """All losses: of `num` pairs; of the contrast in a batch as in training, for it is harder in a larger one."""
        losses = self.heads.loss(*self.sample(num, np.random.default_rng(0)))
        if self.heads.contrast is not None:
            losses["contrast"] = self.contrast(np.random.default_rng(0))
        return {name: float(value) for name, value in losses.items()}

    def sample(self, num: int, rng: np.random.Generator, near: int = 0) -> list[Tensor]:
        """`num` pairs, as many of each source; see `Pairs.sample`."""
        counts = shares(num, len(self.sources))
        parts = [part.sample(count, rng, self.device, near) for part, count in zip(self.sources, counts, strict=True)]
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
