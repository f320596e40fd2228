"""Training of a part of a checkpoint on latents, its encoder frozen: opening, encoding, optimising, saving."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint, checksum, output_folder
from ..compatibility import check_compatible, different_env
from ..compute.device import keep_freed_memory, resolve_device
from ..data.trajectories import DatasetError, Trajectories
from ..errors import DivergedError
from ..model_card import model_card
from .config import LatentsConfig, PartConfig
from .held_out import DataFile
from .interruption import Interruption
from .latent_cache import OnProgress, encode
from .schedule import learning_rate_factor, seed_of
from .state import TrainingState


def open_all(
    config: PartConfig, in_memory: bool | Literal["auto"] = False
) -> tuple[Checkpoint, list[Trajectories], torch.device]:
    """The checkpoint on the device, and data that fit it.

    Frames stay on the disk by default: encoding wants them once, in their order.

    Raises:
        CheckpointError: there is no checkpoint, or `out` holds something else.
        DatasetError: the data does not fit the checkpoint.
    """
    keep_freed_memory()
    output_folder(config.checkpoint, config.out)  # before the work
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    return checkpoint, open_fitting(checkpoint, config.data, in_memory), device


def open_fitting(
    checkpoint: Checkpoint, paths: Iterable[str | Path], in_memory: bool | Literal["auto"] = False
) -> list[Trajectories]:
    """Files of data that fit a checkpoint.

    Raises:
        DatasetError: one does not, or cannot be read.
    """
    files = [Trajectories.open(path, in_memory) for path in paths]
    for file in files:
        check_fit(checkpoint, file)
    return files


def encode_all(
    config: LatentsConfig,
    checkpoint: Checkpoint,
    files: Sequence[Trajectories],
    device: torch.device,
    report: OnProgress,
) -> list[Tensor]:
    """Latents ``(N, *Z)`` of all frames of each file, cached where `config` says."""
    target = output_folder(config.checkpoint, config.out)
    folder = target.with_name(f"{target.name}.latents") if config.latent_cache is None else Path(config.latent_cache)
    in_memory = None if config.latent_cache is None else False
    return encode(checkpoint, files, device, report, folder=folder, in_memory=in_memory)


@dataclass(frozen=True)
class PartTrainer:
    """Trains a part of a checkpoint and saves it; an interrupted training continues from its last save.

    Attributes:
        config: how to train.
        part: "heads", "contrast", "predictor", "decoder" or "encoder".
        module: the part.
        files: records of the data.
        started_at: ``time.perf_counter()`` at the start of the work.
        earlier: record of the training that this one continues, if there is one.
    """

    config: PartConfig
    part: str
    module: nn.Module
    files: Sequence[DataFile]
    started_at: float
    earlier: Any = None

    def check(self) -> None:
        """Raises, before the encoding, the errors of an interrupted training that cannot be continued."""
        self._state(torch.optim.AdamW(self.module.parameters())).check()

    def optimize(self, loss_of: Callable[[np.random.Generator], Tensor], report: OnProgress) -> TrainingState:
        """Minimises the loss of random examples, which are a function of the seed and the step.

        Raises:
            DivergedError: a gradient is not finite.
            KeyboardInterrupt: SIGINT or SIGTERM ended the training; its state is saved.
        """
        config = self.config
        weights = [weight for weight in self.module.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=config.weight_decay)
        state = self._state(optimizer)
        start = state.load()
        if start > 0:
            report(f"training {self.part}", start, config.steps, f"continued after step {start}")
        with Interruption() as interruption:
            for step in range(start, config.steps):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed_of(config.seed, step))  # dropout
                    loss = loss_of(np.random.default_rng([config.seed, step]))
                loss.backward()
                if not torch.nn.utils.clip_grad_norm_(weights, 1.0).isfinite():
                    raise DivergedError(f"the gradient is not finite at step {step + 1}: lower learning_rate")
                optimizer.step()
                optimizer.zero_grad()
                done = step + 1
                if done % config.save_every == 0 or done == config.steps or interruption.requested:
                    state.save(done)
                if done % 20 == 0 or done == config.steps:
                    report(f"training {self.part}", done, config.steps, f"loss {float(loss.detach()):.4f}")
                if interruption.requested and done < config.steps:
                    raise KeyboardInterrupt
        return state

    def _state(self, optimizer: torch.optim.AdamW) -> TrainingState:
        """Saved state of this very training: nobody asked to resume, so no setting but those of saving may differ."""
        target = self._target
        fingerprints = [file.fingerprint for file in self.files]
        settings = {
            **asdict(self.config),
            "checkpoint": checksum(self.config.checkpoint),
            "fingerprints": fingerprints,
        }
        return TrainingState(
            target.with_name(f"{target.name}.{self.part}.unfinished"),
            self.module,
            optimizer,
            settings,
            self.started_at,
            may_change_if_logged=(),
        )

    def save(
        self, checkpoint: Checkpoint, state: TrainingState, validation: Mapping[str, float], frames: int
    ) -> Checkpoint:
        """Saves the checkpoint with a record of this training of its part, and of the one that it continues."""
        record = self.record(state, validation, frames)
        record |= {} if self.earlier is None else {"before": self.earlier}
        return self.finish(replace(checkpoint, training={**checkpoint.training, self.part: record}), state)

    def record(self, state: TrainingState, validation: Mapping[str, float], frames: int) -> dict[str, Any]:
        """Record of this training, for the checkpoint and its card."""
        return {
            **asdict(self.config),
            "set": self.config.changed,
            "frames": frames,
            "data_files": [asdict(file) for file in self.files],
            "validation": dict(validation),
            "changes": state.changes,
            "seconds": state.seconds,
        }

    def finish(self, checkpoint: Checkpoint, state: TrainingState) -> Checkpoint:
        """Saves `checkpoint`, whose part is trained, and removes the state of the training."""
        checkpoint.save(self._target, model_card(checkpoint))
        state.discard()
        return checkpoint

    @property
    def _target(self) -> Path:
        return output_folder(self.config.checkpoint, self.config.out)


def check_fit(checkpoint: Checkpoint, data: Trajectories) -> None:
    """Refuses data whose frames, actions or conventions differ from those that the world model was trained on."""
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
    other = different_env(checkpoint.env, data.env_id)
    if other is not None:
        raise DatasetError(
            f"{data.path} was recorded in {other} and the checkpoint was trained for {checkpoint.env}: "
            f"collect with --env {checkpoint.env}"
        )
    same = {"image_size": checkpoint.model.image_size}  # already compared, on the frames themselves
    check_compatible(
        checkpoint.env,
        {**checkpoint.env_kwargs, **same},
        {**data.env_kwargs, **same},
        trained_by="the checkpoint was trained with",
        requested_by=f"{data.path} has",
        fix=lambda options: f"collect with {options}, or train a world model on {data.path} first",
        error=DatasetError,
    )


def _actions(size: int, discrete: bool) -> str:
    return f"{size} discrete actions" if discrete else f"actions of {size} numbers"
