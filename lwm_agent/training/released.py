"""Import of released LeWorldModel weights as a checkpoint, with the units of their training data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..checkpoint import Checkpoint, check_replaceable
from ..compatibility import conventions
from ..data.trajectories import Trajectories
from ..envs import name_of, spec_of
from ..errors import FileError, MachineError, UserError
from ..files import read_text
from ..imports import hub
from ..model_card import model_card
from ..models import LeWorldModel
from ..models.pretrained import read_weights
from ..models.released import PIXEL_STATISTICS, load_released, released_settings
from ..normalizer import Normalizer
from .config import ImportConfig
from .setup import fit_normalizer

CONFIG, WEIGHTS = "config.json", "weights.pt"


def import_released(config: ImportConfig) -> Checkpoint:
    """Makes a checkpoint of ``config.json`` and ``weights.pt``, as the authors of LeWorldModel release them.

    Nothing but tensors is read of the weights.

    Raises:
        UserError: the weights are of another architecture.
        FileError: a file is missing or cannot be read.
        MachineError: they cannot be downloaded.
    """
    check_replaceable(config.out)
    folder = _folder(config)
    weights_file = folder / WEIGHTS
    if not weights_file.is_file():
        raise FileError(
            f"{config.source} has no {WEIGHTS}: name a folder that holds {CONFIG} and {WEIGHTS}, or an id of the "
            "Hugging Face hub, such as quentinll/lewm-pusht; whole pickled models (.ckpt) are never loaded"
        )
    files = [Trajectories.open(path, in_memory=False) for path in config.data]
    normalizer, weights = _units(config, files), read_weights(weights_file)
    try:
        settings = released_settings(weights, _read(folder / CONFIG), normalizer.action_size)
        model = LeWorldModel(**settings)
        load_released(model, weights)
    except UserError as error:
        raise UserError(f"{weights_file}: {error}") from error
    checkpoint = Checkpoint(
        name="lewm",
        model_config=settings,
        model=model.eval().requires_grad_(False),
        normalizer=normalizer,
        env=name_of(config.env),
        env_kwargs={
            **conventions(config.env, files[0].env_kwargs if files else config.env_settings),
            "image_size": model.image_size,
        },
        training={"preset": "base", "data": list(config.data), "released": _origin(config, weights_file)},
    )
    checkpoint.save(config.out, model_card(checkpoint), exact=True)
    return checkpoint


def _folder(config: ImportConfig) -> Path:
    """The folder of the files: that of the user, or one of the hub's cache."""
    folder = Path(config.source)
    if folder.is_dir():
        return folder
    if config.source.count("/") != 1 or folder.exists():
        raise FileError(f"{config.source} is neither a folder nor an id of the Hugging Face hub, OWNER/NAME")
    client = hub(f"{config.source} is no folder here, and to download it")
    try:
        files = [client.hf_hub_download(config.source, name, revision=config.revision) for name in (CONFIG, WEIGHTS)]
    except Exception as error:  # of the network, of the disk, of the hub: each has a class of its own
        raise MachineError(
            f"{config.source} cannot be downloaded ({error}): get it elsewhere and name its folder"
        ) from error
    return Path(files[0]).parent


def _read(path: Path) -> dict[str, Any]:
    """Contents of ``config.json``; empty where there is none."""
    if not path.exists():
        return {}
    try:
        contents = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not valid JSON ({error}): download it again") from error
    return contents if isinstance(contents, dict) else {}


def _units(config: ImportConfig, files: list[Trajectories]) -> Normalizer:
    """Units of the training: from its data, or as the user states them."""
    if files:
        whole = [np.arange(file.num_episodes) for file in files]
        return fit_normalizer(files, whole, PIXEL_STATISTICS)
    low, high = config.action_low, config.action_high
    spec = spec_of(config.env)
    if spec is not None and not low and not high:
        with gym.make(spec.env_id, disable_env_checker=True, **spec.no_pixels_kwargs) as env:
            space = env.action_space
        low, high = tuple(space.low.tolist()), tuple(space.high.tolist())  # type: ignore[attr-defined]
    return Normalizer(
        pixel_mean=PIXEL_STATISTICS[0],
        pixel_std=PIXEL_STATISTICS[1],
        action_mean=config.action_mean,
        action_std=config.action_std,
        action_low=low,
        action_high=high,
    )


def _origin(config: ImportConfig, weights: Path) -> dict[str, Any]:
    """Record of where the weights come from."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {"source": config.source, "revision": config.revision, "sha256": digest}
