"""What is trained on latents while the encoder stays as it is: encoding all frames once, optimising, saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint, checksum, target
from ..compatibility import mismatch, other_env
from ..compute.device import autocast, fast_bf16, keep_freed_memory, resolve_device
from ..data.trajectories import DatasetError, Trajectories
from ..model_card import model_card
from .config import LatentsConfig
from .state import TrainingState
from .train import learning_rate_factor, seed_of

OnProgress = Callable[[str, int, int, str], None]
"""Called with what is being done, how much of it is, the total, and what there is to say."""


def open_all(config: LatentsConfig) -> tuple[Checkpoint, list[Trajectories], torch.device]:
    """The checkpoint on the device, and data that fit it.

    Raises:
        CheckpointError: there is no checkpoint, or `out` holds something else.
        DatasetError: the data does not fit the checkpoint.
    """
    keep_freed_memory()
    target(config.checkpoint, config.out)  # before the work
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    files = [Trajectories.open(path) for path in config.data]
    for file in files:
        check_fit(checkpoint, file)
    return checkpoint, files, device


@dataclass(frozen=True)
class PartTraining:
    """Trains a part of a checkpoint and saves it; an interrupted training goes on where it was last saved.

    Attributes:
        config: how to train.
        part: "heads" or "predictor".
        module: what to train.
        began: when the work on it began, as `time.perf_counter` told it.
        goes_on: whether what it learned before remains.
    """

    config: LatentsConfig
    part: str
    module: nn.Module
    began: float
    goes_on: bool = False

    def optimize(self, loss_of: Callable[[np.random.Generator], Tensor], report: OnProgress) -> TrainingState:
        """Minimises the loss of random examples, which are a function of the seed and the step."""
        config, weights = self.config, list(self.module.parameters())
        optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=config.weight_decay)
        folder = self._target.with_name(f"{self._target.name}.{self.part}.unfinished")
        settings = {**asdict(config), "checkpoint": checksum(config.checkpoint)}
        # Nobody asked to resume: what goes on must be the very same training.
        state = TrainingState(
            folder, self.module, optimizer, settings, self.began, free=("out", "device", "save_every"), recorded=()
        )
        start = state.load()
        if start > 0:
            report("training", start, config.steps, f"going on after step {start}")
        for step in range(start, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(config.seed, step))  # dropout
                loss = loss_of(np.random.default_rng([config.seed, step]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0, error_if_nonfinite=True)
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            if done % config.save_every == 0:
                state.save(done)
            if done % 20 == 0 or done == config.steps:
                report("training", done, config.steps, f"loss {float(loss.detach()):.4f}")
        return state

    def save(
        self, checkpoint: Checkpoint, state: TrainingState, validation: Mapping[str, float], frames: int
    ) -> Checkpoint:
        """Saves the checkpoint with an account of how its part was trained, and of how before if it goes on."""
        earlier = checkpoint.training.get(self.part) if self.goes_on else None
        facts = {
            **({} if earlier is None else {"before": earlier}),
            **asdict(self.config),
            "set": self.config.changed,
            "frames": frames,
            "validation": dict(validation),
            "changes": state.changes,
            "seconds": state.seconds,
        }
        finished = replace(checkpoint, training={**checkpoint.training, self.part: facts})
        finished.save(self._target, model_card(finished))
        state.discard()
        return finished

    @property
    def _target(self) -> Path:
        return target(self.config.checkpoint, self.config.out)


def check_fit(checkpoint: Checkpoint, data: Trajectories) -> None:
    """Refuses data in which things look or act otherwise than in those that the world model was trained on."""
    size, units = checkpoint.model.image_size, checkpoint.normalizer
    if data.image_size != size:
        raise DatasetError(
            f"{data.path} has {data.image_size}-px frames and the checkpoint sees {size}: "
            f"collect with --image-size {size}"
        )
    if data.env_id is not None:
        _check_env(checkpoint, data)
    if (data.action_size, data.discrete) != (units.action_size, units.discrete):
        raise DatasetError(
            f"{data.path} has {_actions(data.action_size, data.discrete)} and the checkpoint knows "
            f"{_actions(units.action_size, units.discrete)}: train a world model on {data.path} first"
        )


def _check_env(checkpoint: Checkpoint, data: Trajectories) -> None:
    other = other_env(checkpoint.env, data.env_id)
    if other is not None:
        raise DatasetError(
            f"{data.path} was recorded in {other} and the checkpoint was trained for {checkpoint.env}: "
            f"collect with --env {checkpoint.env}"
        )
    same = {"image_size": checkpoint.model.image_size}  # the frames told, whether the arguments do or not
    differing = mismatch(checkpoint.env, {**checkpoint.env_kwargs, **same}, {**data.env_kwargs, **same})
    if differing is not None:
        raise DatasetError(
            f"{data.path} has {differing.given} and the checkpoint was trained with {differing.trained}: "
            f"collect with {differing.options}, or train a world model on {data.path} first"
        )


def _actions(size: int, discrete: bool) -> str:
    return f"{size} discrete actions" if discrete else f"actions of {size} numbers"


@torch.no_grad()
def encode(
    checkpoint: Checkpoint, files: Sequence[Trajectories], device: torch.device, report: OnProgress, chunk: int = 512
) -> list[Tensor]:
    """Latents ``(N, D)`` of all frames of each file, in half precision on the CPU."""
    latents, done, total = [], 0, sum(file.num_frames for file in files)
    for file in files:
        parts = []
        for rows in np.split(np.arange(file.num_frames), range(chunk, file.num_frames, chunk)):
            pixels = checkpoint.normalizer.pixels(file.frames(rows), device)
            with autocast(device, fast_bf16(device)):
                parts.append(checkpoint.model.embed(pixels).half().cpu())  # type: ignore[operator]
            done += len(rows)
            report("encoding", done, total, "")
        latents.append(torch.cat(parts))
    return latents
