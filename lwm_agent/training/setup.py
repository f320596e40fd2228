"""A new world model for given data: checks, statistics, untrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..compatibility import check_compatible, conventions, different_env
from ..data.attributes import check_bounds
from ..data.trajectories import DatasetError, Trajectories, all_actions
from ..envs import name_of, spec_of
from ..errors import UserError
from ..models import MODELS
from ..normalizer import Normalizer
from .config import TrainConfig

CALIBRATION_FRAMES = 256
"""Frames of each file that a model may take statistics of before training."""


def new_checkpoint(
    config: TrainConfig, files: Sequence[Trajectories], episodes: Sequence[NDArray[np.int64]]
) -> Checkpoint:
    """A model for the data: an untrained one with their statistics and conventions, or that of ``config.init``."""
    _check_alike(config, files)
    data = _first_with_metadata(files)
    first = None if config.init is None else Checkpoint.load(config.init)
    kind = MODELS[config.model]
    settings = {
        "image_size": data.image_size,
        **(kind.presets[config.preset] if first is None else first.model_config),
        **config.model_settings,
        "action_size": data.action_size,
    }
    stated = config.model_settings.get("action_size", data.action_size)
    if stated != data.action_size:
        raise UserError(f"model.action_size={stated} is not that of {data.path}: leave it out")
    if first is not None:
        _check_first(config, first, settings, data)
    if settings["image_size"] != data.image_size:
        raise UserError(
            f"the model takes {settings['image_size']}-px frames and {data.path} has {data.image_size}: "
            f"collect with --image-size {settings['image_size']}, or train with "
            f"--set model.image_size={data.image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = kind.build(settings)
    if first is None:
        model.load_external_weights()
        normalizer = fit_normalizer(files, episodes, model.pixel_statistics)
        some = np.concatenate([_some_frames(file, CALIBRATION_FRAMES) for file in files])
        model.calibrate(normalizer.pixels(some[:, 0]))
    else:
        model.load_state_dict(first.model.state_dict(), strict=False)  # another loss has other parts beside
        normalizer = first.normalizer
    return Checkpoint(
        name=config.model,
        model_config=settings,
        model=model,
        normalizer=normalizer,
        env=name_of(config.env),
        env_kwargs={
            **conventions(config.env, data.env_kwargs),
            **({"image_size": data.image_size} if spec_of(config.env) else {}),
        },
        training={} if first is None else {"before": _record(first)},
    )


def _record(first: Checkpoint) -> dict[str, Any]:
    """Record of the training of `first`, without what a new training does not keep of it."""
    return {name: value for name, value in first.training.items() if name not in ("heads", "recommendation")}


def _check_first(config: TrainConfig, first: Checkpoint, settings: dict[str, Any], data: Trajectories) -> None:
    """Refuses to begin with a checkpoint of another model, of other sizes, or of another environment."""
    if first.name != config.model:
        raise UserError(f"--init {config.init} is a {first.name}, not a {config.model}: pass --model {first.name}")
    usual = MODELS[first.name].defaults
    for name, value in settings.items():
        stated = first.model_config.get(name, usual.get(name))
        if name not in first.model.loss_settings and stated != value:
            raise UserError(
                f"--init {config.init} has {name}={stated!r}, not {value!r}: a training keeps the sizes that it "
                f"begins with, and may change {_listed(first.model.loss_settings)}"
            )
    spec = spec_of(first.env)
    if different_env(config.env, first.env if spec is None else spec.env_id) is not None:
        raise UserError(f"--init {config.init} was trained for {first.env}, not for {config.env}")
    check_compatible(
        config.env,
        first.env_kwargs,
        {**first.env_kwargs, **conventions(config.env, data.env_kwargs)},
        trained_by=f"--init {config.init} was trained with",
        requested_by=f"{data.path} was recorded with",
        fix=lambda options: f"collect data with {options}",
    )


def _listed(settings: Sequence[str]) -> str:
    """Settings of a model as the command line names them."""
    return ", ".join(f"model.{name}" for name in settings) or "no setting of this model"


def _check_alike(config: TrainConfig, files: Sequence[Trajectories]) -> None:
    """Refuses files of another environment, and files that differ in what a frame shows or an action does.

    A file that does not say where it was recorded is taken as it is.
    """
    first = _first_with_metadata(files)
    for file in files:
        other = different_env(config.env, file.env_id)
        if other is not None:
            raise UserError(f"{file.path} was recorded in {other}, not in {config.env}: pass --env {other}")
        for what in ("image_size", "action_size", "discrete"):
            one, two = getattr(first, what), getattr(file, what)
            if one != two:
                raise DatasetError(f"{first.path} has {what} {one} and {file.path} has {two}: train on one of them")
        if file.env_id is not None:
            check_compatible(
                config.env,
                file.env_kwargs,
                first.env_kwargs,
                trained_by=f"{file.path} with",
                requested_by=f"{first.path} was recorded with",
                fix=lambda options: "train on one of them",
                error=DatasetError,
            )


def _first_with_metadata(files: Sequence[Trajectories]) -> Trajectories:
    """The first file that says where it was recorded, or the first."""
    return next((file for file in files if file.env_id is not None), files[0])


def fit_normalizer(
    files: Sequence[Trajectories],
    episodes: Sequence[NDArray[np.int64]],
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    num_frames: int = 2000,
) -> Normalizer:
    """Statistics of the training episodes: all of their actions, however they are spread over files, and `num_frames`
    pictures of each file; of pictures, `pixels` are taken instead where a model asks for these.
    """
    pairs = zip(files, episodes, strict=True)
    actions = np.concatenate([all_actions(file, part) for file, part in pairs]).astype(np.float64)
    discrete = files[0].discrete
    names = ", ".join(str(file.path) for file in files)
    if discrete and not actions.any(0).all():
        never = ", ".join(map(str, np.flatnonzero(~actions.any(0))))
        raise DatasetError(f"{names}: actions {never} are never taken, so that nothing can be learned of them")
    declared = [(file.action_low, file.action_high) for file in files]
    low, high = check_bounds(names, actions, declared)
    if pixels is None:
        frames = np.concatenate([_some_frames(file, num_frames) for file in files]).reshape(-1, 3) / 255.0
        pixels = tuple(frames.mean(0)), tuple(frames.std(0) + 1e-3)
    return Normalizer(
        pixel_mean=pixels[0],
        pixel_std=pixels[1],
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
