"""Training a world model on recorded trajectories: one loop for every model, device and number of processes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import fast_bf16, keep_freed_memory, resolve_device
from ..data.clips import Clips, Mixture, Windows
from ..data.trajectories import Trajectories, split
from ..errors import DivergedError, UserError
from ..model_card import hardware, model_card
from ..models import LatentPredictor
from ..normalizer import Normalizer
from ..protocols import DEFAULT_COST, PARTS
from .batches import to_batch
from .config import TrainConfig
from .held_out import data_files, same_files
from .interruption import Interruption
from .latent_cache import OnProgress, encode
from .latent_clips import LatentClips, LatentMixture
from .metric_log import MetricLog
from .schedule import learning_rate_factor, seed_of
from .setup import new_checkpoint
from .state import MAY_CHANGE, STATE, TrainingState
from .validation import recalibrate_batch_norm, validate


@dataclass(frozen=True)
class Progress:
    """Report of `train` after each step: the step, its losses, and the last validation."""

    step: int
    losses: dict[str, float]
    validation: dict[str, float]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Checkpoint:
    """Trains, and leaves a checkpoint in ``config.out``.

    Where the encoder stays as it is, all frames are encoded first, which `on_progress` reports, and the steps take
    their latents from files in ``config.latent_cache``.

    A resumed training goes on exactly where it stopped: batches, directions and dropout are functions of seed and step.
    Resumed with another number of `steps`, it follows the schedule of these from there on, and the model card says so.
    SIGINT and SIGTERM end it after the step under way, its state saved.

    Raises:
        UserError: a run is there already and `resume` is False, or it was begun with other settings.
        DivergedError: the loss is not finite any more.
        KeyboardInterrupt: a signal ended it.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    config = _with_precision(config, device)
    fabric = Fabric(
        accelerator=device.type,
        devices=config.num_devices if device.index is None else [device.index],
        precision=config.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    finished = _finished(config) if resume else None
    if finished is not None:
        return finished
    if resume:
        _check_unchanged(Path(config.out) / "checkpoint")
    files = [Trajectories.open(path) for path in config.data]
    parts = [split(file.num_episodes, config.validation, config.seed) for file in files]
    checkpoint = new_checkpoint(config, files, [training for training, _ in parts])
    windows, held_out = (
        Mixture([Windows(file, part, config.clip_length, checkpoint.model.frameskip) for file, part in pairs])
        for pairs in (zip(files, column, strict=True) for column in zip(*parts, strict=True))
    )
    run = _Run(config, checkpoint, fabric, [file.fingerprint for file in files])
    start = run.state.load() if resume else run.state.begin()  # now that the weights are on their device
    checkpoint = replace(checkpoint, normalizer=Normalizer(**run.state.settings["normalizer"]))
    source = _clip_source(config, checkpoint, windows, fabric, on_progress)
    validation: dict[str, float] = {}
    log = MetricLog(Path(config.out), asdict(config), start, track=config.track, enabled=fabric.is_global_zero)
    with ThreadPoolExecutor(1) as prefetcher, log, Interruption() as interruption:
        pending = prefetcher.submit(run.draw, source, start)
        for step in range(start, config.steps):
            # Only reads in the other thread: torch's thread pools of two threads get in each other's way.
            clips, pending = pending.result(), prefetcher.submit(run.draw, source, step + 1)
            losses = run.step(clips, checkpoint.normalizer, step)
            done = step + 1
            if done % config.log_every == 0:
                log.write(done, "train", losses)
            if done % config.validate_every == 0 or done == config.steps:
                validation = validate(checkpoint, held_out, config.env)
                log.write(done, "validation", validation)
            last = interruption.requested or done == config.steps
            if fabric.is_global_zero and (done % config.save_every == 0 or last):
                run.state.save(done)
            if on_step is not None:
                on_step(Progress(done, losses, validation))
            if interruption.requested and done < config.steps:
                raise KeyboardInterrupt
    recalibrate_batch_norm(checkpoint, windows, config)
    checkpoint.training.update(
        asdict(config),
        set=config.changed,
        frames=sum(file.num_frames for file in files),
        data_files=data_files(files, config.seed, config.validation),
        changes=run.state.changes,
        hardware=hardware(device),
        validation=validate(checkpoint, held_out, config.env),
        seconds=run.state.seconds,
    )
    if fabric.is_global_zero:
        checkpoint.save(Path(config.out) / "checkpoint", model_card(checkpoint))
        run.state.finish(config.keep_state)
    return checkpoint


class _Run:
    """Model, optimiser and saved state of one training.

    Args:
        config: how to train.
        checkpoint: the model to train, on the CPU.
        fabric: where to train it.
        fingerprints: of the data files.
    """

    def __init__(self, config: TrainConfig, checkpoint: Checkpoint, fabric: Fabric, fingerprints: list[str]) -> None:
        self._config, self._fabric, self._world_model = config, fabric, checkpoint.model
        weights = list(checkpoint.model.trainable_parameters())
        self._optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=config.weight_decay, fused=True)
        # Other data may take the place of the first, but what they are like must stay.
        kept = {"env_kwargs": checkpoint.env_kwargs, "normalizer": asdict(checkpoint.normalizer)}
        settings = {**asdict(config), **kept, "files": len(fingerprints), "fingerprints": fingerprints}
        self.state = TrainingState(Path(config.out), checkpoint.model, self._optimizer, settings)
        self._model, self._fabric_optimizer = fabric.setup(checkpoint.model, self._optimizer)
        self._model.mark_forward_method("loss")
        if isinstance(checkpoint.model, LatentPredictor):
            self._model.mark_forward_method("prediction_losses")

    def draw(self, source: Mixture | LatentMixture, step: int) -> Clips | LatentClips:
        """The clips of a step, for this process."""
        rng = np.random.default_rng([self._config.seed, step, self._fabric.global_rank])
        num = self._config.batch_size // self._config.num_devices
        if isinstance(source, LatentMixture):
            return source.sample(num, rng)
        return source.sample(num, rng, goals=self._world_model.needs_goals)

    def step(self, clips: Clips | LatentClips, normalizer: Normalizer, step: int) -> dict[str, float]:
        """One optimisation step, numbered from 0; its losses.

        Raises:
            DivergedError: the loss is not finite.
        """
        config, seed = self._config, self._config.seed
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
        self._model.train()
        # Directions must agree between processes, dropout must not; both depend on nothing but seed and step.
        directions = torch.Generator().manual_seed(seed_of(seed, step))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, step, 1 + self._fabric.global_rank))  # 0 would be the seed above
            losses = self._losses(clips, normalizer, directions)
        self._fabric.backward(losses["loss"])
        self._fabric.clip_gradients(
            self._model, self._fabric_optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        self._fabric_optimizer.step()
        self._fabric_optimizer.zero_grad()
        self._world_model.after_step()
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(values["loss"]):
            raise DivergedError(f"the loss is {values['loss']} at step {step + 1}: lower learning_rate")
        return values

    def _losses(
        self, clips: Clips | LatentClips, normalizer: Normalizer, directions: torch.Generator
    ) -> dict[str, Tensor]:
        device = self._fabric.device
        if isinstance(clips, LatentClips):
            return self._model.prediction_losses(*clips.on(device, normalizer), directions)
        return self._model.loss(to_batch(clips, normalizer, device), directions)


def _clip_source(
    config: TrainConfig, checkpoint: Checkpoint, windows: Mixture, fabric: Fabric, on_progress: OnProgress | None
) -> Mixture | LatentMixture:
    """What the steps draw from: `windows`, or the latents of their frames where nothing but the predictor is trained.

    Of several processes, the first encodes.
    """
    if not isinstance(checkpoint.model, LatentPredictor) or not checkpoint.model.frozen_encoder:
        return windows
    folder = Path(config.out) / "latents" if config.latent_cache is None else Path(config.latent_cache)
    files = [part.trajectories for part in windows.windows]
    report = on_progress or (lambda task, done, total, text: None)
    with fabric.rank_zero_first():
        latents = encode(checkpoint, files, fabric.device, report, folder=folder, in_memory=False)
    return LatentMixture(windows.windows, latents)


def _with_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """`config` with the precision that "auto" stands for on `device`."""
    faster = "bf16-mixed" if fast_bf16(device) else "32-true"
    return replace(config, precision=faster) if config.precision == "auto" else config


def _finished(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint of this very training, if it is finished and its state was not kept."""
    folder = Path(config.out) / "checkpoint"
    if not folder.exists() or (Path(config.out) / STATE).exists():
        return None
    checkpoint = Checkpoint.load(folder)
    before, now = checkpoint.training, json.loads(json.dumps(asdict(config)))
    compared = now.keys() - {*MAY_CHANGE, "data", "validation"}  # the record has results as "validation"
    if any(before.get(name, now[name]) != now[name] for name in compared):
        return None
    files = [Trajectories.open(path, in_memory=False) for path in config.data]
    same_data = same_files(before.get("data_files"), data_files(files, config.seed, config.validation))
    return checkpoint if same_data else None


def _check_unchanged(folder: Path) -> None:
    """Refuses to replace a checkpoint that holds what other commands have added to it since it was trained."""
    if not folder.exists():
        return
    found = Checkpoint.load(folder)
    added: list[str] = [part for part in PARTS if part in found.training]
    if found.decoder is not None:
        added.append("decoder")
    if found.cost != DEFAULT_COST or found.replan_every_env_steps is not None:
        added.append("recommended settings of plans")
    if added:
        raise UserError(
            f"{folder} has {' and '.join(added)} of its own, which training on would throw away: move it elsewhere"
        )
