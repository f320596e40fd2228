"""Training the heads of a checkpoint: a goal-conditioned actor and a temporal distance on its frozen latents."""

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
from ..data.trajectories import DatasetError, Trajectories, shares, split
from ..models import Heads
from .config import HeadsConfig
from .frozen_encoder import OnProgress, PartTraining, encode, open_all


def train_heads(config: HeadsConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Encodes the data once, trains the heads on the latents, and saves them inside the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, or its episodes are shorter than a model step.
    """
    report = on_progress or (lambda task, done, total, text: None)
    began = time.perf_counter()
    checkpoint, files, device = open_all(config)
    if checkpoint.normalizer.discrete:
        raise DatasetError("heads need continuous actions; plan discrete ones with categorical-cem, which needs none")
    latents, pairs, held_out = encode(checkpoint, files, device, report), [], []
    for file, seen in zip(files, latents, strict=True):
        training, validation = split(file.num_episodes, config.validation, config.seed)
        pairs.append(Pairs(checkpoint, file, seen, training, config.max_steps))
        held_out.append(Pairs(checkpoint, file, seen, validation, config.max_steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = Heads(
            latent_size=latents[0].shape[1],
            block_size=pairs[0].frameskip * checkpoint.normalizer.action_size,
            width=config.width,
            max_steps=config.max_steps,
        ).to(device)

    def loss(rng: np.random.Generator) -> Tensor:
        batch = sample(pairs, config.batch_size, rng, device)
        with autocast(device, fast_bf16(device)):
            return heads.loss(*batch)["loss"]

    part = PartTraining(config, "heads", heads, began)
    state = part.optimize(loss, report)
    heads.eval().requires_grad_(False)
    losses = heads.loss(*sample(held_out, 16_384, np.random.default_rng(0), device))
    validated = {name: float(value) for name, value in losses.items()}
    return part.save(replace(checkpoint, heads=heads), state, validated, sum(file.num_frames for file in files))


def sample(sources: Sequence[Pairs], num: int, rng: np.random.Generator, device: torch.device) -> list[Tensor]:
    """`num` pairs, as many of each source; see `Pairs.sample`."""
    parts = [part.sample(share, rng, device) for part, share in zip(sources, shares(num, len(sources)), strict=True)]
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
