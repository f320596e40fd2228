"""Training a world model on recorded trajectories: one loop for every model, device and number of processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from ..compatibility import conventions, mismatch, other_env
from ..compute.device import fast_bf16, keep_freed_memory, resolve_device
from ..data.trajectories import Clips, DatasetError, Mixture, Trajectories, Windows, split, taken_actions
from ..envs import spec_of
from ..errors import DivergedError, UserError
from ..model_card import hardware, model_card
from ..models import MODELS, PRESETS
from ..normalizer import Normalizer
from ..protocols import DEFAULT_COST, Batch
from .config import TrainConfig
from .metric_log import MetricLog
from .monitors import collapse_monitors, collapse_warning, probe
from .state import TrainingState


@dataclass(frozen=True)
class Progress:
    """What `train` reports after each step: the step, its losses, and what validation data said last."""

    step: int
    losses: dict[str, float]
    validation: dict[str, float]


def train(
    config: TrainConfig, *, resume: bool = False, on_step: Callable[[Progress], None] | None = None
) -> Checkpoint:
    """Trains, and leaves a checkpoint in ``config.out``.

    A resumed training goes on exactly where it stopped: batches, directions and dropout are functions of seed and step.
    Resumed with another number of `steps`, it follows the schedule of these from there on, and the model card says so.

    Raises:
        ValueError: a run is there already and `resume` is False, or it was begun with other settings.
        FloatingPointError: the loss is not finite any more.
    """
    keep_freed_memory()
    if resume:
        _check_unchanged(Path(config.out) / "checkpoint")
    device = resolve_device(config.device)
    config = _with_precision(config, device)
    fabric = Fabric(
        accelerator=device.type,
        devices=config.num_devices,
        precision=config.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    files = [Trajectories.open(path) for path in config.data]
    parts = [split(file.num_episodes, config.validation, config.seed) for file in files]
    checkpoint = _new_checkpoint(config, files, [training for training, _ in parts])
    windows, held_out = (
        Mixture([Windows(file, part, config.clip_length, checkpoint.model.frameskip) for file, part in pairs])  # type: ignore[arg-type]
        for pairs in (zip(files, column, strict=True) for column in zip(*parts, strict=True))
    )
    optimizer = torch.optim.AdamW(checkpoint.model.parameters(), lr=0.0, weight_decay=config.weight_decay, fused=True)
    # Other data may take the place of the first, but what they are like must stay.
    kept = {"env_kwargs": checkpoint.env_kwargs, "normalizer": asdict(checkpoint.normalizer)}
    settings = {**asdict(config), **kept, "files": len(files)}
    state = TrainingState(Path(config.out), checkpoint.model, optimizer, settings)
    model, fabric_optimizer = fabric.setup(checkpoint.model, optimizer)
    start = state.load() if resume else state.begin()  # now that the weights are on their device
    checkpoint = replace(checkpoint, normalizer=Normalizer(**state.settings["normalizer"]))
    model.mark_forward_method("loss")

    def draw(step: int) -> Clips:
        rng = np.random.default_rng([config.seed, step, fabric.global_rank])
        return windows.sample(config.batch_size // config.num_devices, rng)

    validated: dict[str, float] = {}
    log = MetricLog(Path(config.out), asdict(config), start, track=config.track, enabled=fabric.is_global_zero)
    with ThreadPoolExecutor(1) as prefetcher, log:
        pending = prefetcher.submit(draw, start)
        for step in range(start, config.steps):
            # Only reads in the other thread: torch's thread pools of two threads get in each other's way.
            clips, pending = pending.result(), prefetcher.submit(draw, step + 1)
            batch = fabric.to_device(to_batch(clips, checkpoint.normalizer))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
            losses = _step(fabric, model, fabric_optimizer, batch, config, step)
            done = step + 1
            if done % config.log_every == 0:
                log.write(done, "train", losses)
            if done % config.validate_every == 0 or done == config.steps:
                validated = validate(checkpoint, held_out, config.env)
                log.write(done, "validation", validated)
            if fabric.is_global_zero and (done % config.save_every == 0 or done == config.steps):
                state.save(done)
            if on_step is not None:
                on_step(Progress(done, losses, validated))
    recalibrate_batch_norm(checkpoint, windows, config)
    facts = {"validation": validate(checkpoint, held_out, config.env), "seconds": state.seconds}
    frames = sum(file.num_frames for file in files)
    known = {"set": config.changed, "frames": frames, "changes": state.changes, "hardware": hardware(device)}
    checkpoint.training.update(asdict(config), **known, **facts)
    if fabric.is_global_zero:
        checkpoint.save(Path(config.out) / "checkpoint", model_card(checkpoint))
    return checkpoint


def _step(fabric: Fabric, model: Any, optimizer: Any, batch: Batch, config: TrainConfig, step: int) -> dict[str, float]:
    """One optimisation step; its losses."""
    model.train()
    # Directions must agree between processes, dropout must not; both depend on nothing but seed and step.
    directions = torch.Generator().manual_seed(seed_of(config.seed, step))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, step, 1 + fabric.global_rank))  # 0 would be the seed above
        losses: dict[str, Tensor] = model.loss(batch, directions)
    fabric.backward(losses["loss"])
    fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        raise DivergedError(f"the loss is {values['loss']} at step {step + 1}: lower learning_rate")
    return values


def seed_of(*parts: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine down to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def to_batch(clips: Clips, normalizer: Normalizer) -> Batch:
    """Raw clips as what models train on."""
    state = None if clips.state is None else torch.from_numpy(clips.state)
    return Batch(normalizer.pixels(clips.pixels), normalizer.blocks(clips.env_action), state)


@torch.no_grad()
def validate(checkpoint: Checkpoint, windows: Mixture, env: str, num_clips: int = 512) -> dict[str, float]:
    """Losses, collapse monitors and linear probes on the same `num_clips` validation clips each time.

    Warns (`RuntimeWarning`) when the latents are collapsing.
    """
    model, losses, latents = checkpoint.model.eval(), [], []
    device = next(model.parameters()).device
    clips = windows.sample(num_clips, np.random.default_rng(0))
    for part in range(0, num_clips, 64):
        some = Clips(*(None if column is None else column[part : part + 64] for column in clips))  # type: ignore[arg-type]
        batch = Batch(*(None if x is None else x.to(device) for x in to_batch(some, checkpoint.normalizer)))  # type: ignore[arg-type]
        losses.append(model.loss(batch, torch.Generator().manual_seed(part)))  # type: ignore[operator]
        latents.append(model.embed(batch.pixels.flatten(0, 1)).float().cpu())  # type: ignore[operator]
    values = {name: float(torch.stack([loss[name] for loss in losses]).mean()) for name in losses[0]}
    monitors = collapse_monitors(torch.cat(latents))
    warning = collapse_warning(monitors, latents[0].shape[1])
    if warning:
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
    spec = spec_of(env)
    if spec is not None and clips.state is not None:
        state = clips.state.reshape(-1, clips.state.shape[-1])
        told = {name: where for name, where in spec.probes.items() if max(where) < state.shape[1]}
        monitors.update(probe(torch.cat(latents), state, told))
    return {**values, **monitors}


@torch.no_grad()
def recalibrate_batch_norm(
    checkpoint: Checkpoint, windows: Mixture, config: TrainConfig, num_batches: int = 50
) -> None:
    """Replaces the running statistics of BatchNorm by exact means over training clips ("precise BN").

    The moving averages lag behind the weights so much that the prediction error in evaluation mode can be 300 times
    that of training (arXiv 2608.10145).
    """
    norms = [module for module in checkpoint.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    device = next(checkpoint.model.parameters()).device
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean instead of an exponential one
    checkpoint.model.eval()
    for norm in norms:
        norm.train()  # dropout stays off: it would change the statistics
    for index in range(num_batches):
        clips = windows.sample(config.batch_size, np.random.default_rng([config.seed, index]))
        batch = to_batch(clips, checkpoint.normalizer)
        checkpoint.model.loss(
            Batch(batch.pixels.to(device), batch.actions.to(device)), torch.Generator().manual_seed(index)
        )  # type: ignore[operator]
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    checkpoint.model.eval()


def _with_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """`config` with the precision that "auto" stands for on `device`."""
    faster = "bf16-mixed" if fast_bf16(device) else "32-true"
    return replace(config, precision=faster) if config.precision == "auto" else config


def _check_unchanged(folder: Path) -> None:
    """Refuses to replace a checkpoint that holds what other commands have added to it since it was trained."""
    if not folder.exists():
        return
    found = Checkpoint.load(folder)
    added: list[str] = [part for part in ("heads", "predictor") if part in found.training]
    added += ["recommended cost"] if found.cost != DEFAULT_COST else []
    if added:
        raise UserError(
            f"{folder} has {' and '.join(added)} of its own, which training on would throw away: move it elsewhere"
        )


def _check_alike(config: TrainConfig, files: Sequence[Trajectories]) -> None:
    """Refuses files of another environment, and files that differ in what a frame shows or an action does.

    A file that does not say where it was recorded is taken as it is.
    """
    first = _telling(files)
    for file in files:
        other = other_env(config.env, file.env_id)
        if other is not None:
            raise UserError(f"{file.path} was recorded in {other}, not in {config.env}: pass --env {other}")
        for what in ("image_size", "action_size", "discrete"):
            one, two = getattr(first, what), getattr(file, what)
            if one != two:
                raise DatasetError(f"{first.path} has {what} {one} and {file.path} has {two}: train on one of them")
        differ = mismatch(config.env, first.env_kwargs, file.env_kwargs)
        if differ is not None and file.env_id is not None:
            how = f"{first.path} was recorded with {differ.trained} and {file.path} with {differ.given}"
            raise DatasetError(f"{how}: train on one of them")


def _telling(files: Sequence[Trajectories]) -> Trajectories:
    """The first file that says where it was recorded, or the first."""
    return next((file for file in files if file.env_id is not None), files[0])


def _new_checkpoint(
    config: TrainConfig, files: Sequence[Trajectories], episodes: Sequence[NDArray[np.int64]]
) -> Checkpoint:
    """An untrained model for the data, with the data's statistics and conventions."""
    _check_alike(config, files)
    data = _telling(files)
    settings = {
        "image_size": data.image_size,
        **PRESETS[config.preset],
        **config.model,
        "action_size": data.action_size,
    }
    if settings["image_size"] != data.image_size:
        raise UserError(
            f"the model takes {settings['image_size']}-px frames and {data.path} has {data.image_size}: "
            f"collect with --image-size {settings['image_size']}, or train with "
            f"--set model.image_size={data.image_size}"
        )
    normalizer = fit_normalizer(files, episodes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODELS["lewm"](**settings)
    return Checkpoint(
        name="lewm",
        model_config=settings,
        model=model,
        normalizer=normalizer,
        env=config.env,
        env_kwargs={
            **conventions(config.env, data.env_kwargs),
            **({"image_size": data.image_size} if spec_of(config.env) else {}),
        },
        training={},
    )


def fit_normalizer(
    files: Sequence[Trajectories], episodes: Sequence[NDArray[np.int64]], num_frames: int = 2000
) -> Normalizer:
    """Statistics of the training episodes: all of their actions, however they are spread over files, and `num_frames`
    pictures of each file.
    """
    pairs = zip(files, episodes, strict=True)
    actions = np.concatenate([taken_actions(file, part) for file, part in pairs]).astype(np.float64)
    low, high = actions.min(0), actions.max(0)
    discrete = files[0].discrete
    if discrete and not high.all():
        names, never = ", ".join(str(file.path) for file in files), ", ".join(map(str, np.flatnonzero(high == 0)))
        raise DatasetError(f"{names}: actions {never} are never taken, so that nothing can be learned of them")
    for file in files:  # recorded actions may exceed what the environment takes, where it clips them itself
        low = low if file.action_low is None else np.maximum(low, file.action_low)
        high = high if file.action_high is None else np.minimum(high, file.action_high)
    frames = np.concatenate([_some_frames(file, num_frames) for file in files]).reshape(-1, 3) / 255.0
    return Normalizer(
        pixel_mean=tuple(frames.mean(0)),
        pixel_std=tuple(frames.std(0) + 1e-3),
        action_mean=tuple(actions.mean(0).astype(np.float32)),
        action_std=tuple(actions.std(0).astype(np.float32) + 1e-6),
        action_low=tuple(low.astype(np.float32)),
        action_high=tuple(high.astype(np.float32)),
        discrete=discrete,
    )


def _some_frames(file: Trajectories, num: int) -> NDArray[np.uint8]:
    """The same `num` frames each time, ``(num, 1, h, h, 3)``, or all of them."""
    rows = np.random.default_rng(0).choice(file.num_frames, min(num, file.num_frames), replace=False)
    return file.frames(np.sort(rows)[:, None])
