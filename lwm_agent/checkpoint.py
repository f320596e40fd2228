"""Checkpoints: a folder with config.json, model.safetensors and README.md, all that planning needs and no pickle.

What was learned on top of the world model, its heads, lies beside it in heads.safetensors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .errors import UserError
from .files import replace_folder
from .models import MODELS, Heads
from .normalizer import Normalizer
from .protocols import DEFAULT_COST

FORMAT = 1
CONFIG, WEIGHTS, HEADS, CARD = "config.json", "model.safetensors", "heads.safetensors", "README.md"
ZOO = Path(__file__).parent / "zoo"


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or made for something else; the message says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained world model and the conventions under which it was trained.

    Attributes:
        name: name in `MODELS`.
        model_config: constructor arguments of the model.
        model: the model, in evaluation mode, its weights frozen.
        normalizer: units of pictures and actions.
        env: name of the environment on the command line, or a Gymnasium id.
        env_kwargs: conventions of the data (image size, fidelity, control mode...), as in `EnvSpec`.
        training: how it was trained and what it reached on validation data, for the model card.
        heads: what was learned on its latents, if anything was.
        cost: planning cost that agents use by default, such as one chosen on validation tasks.
    """

    name: str
    model_config: dict[str, Any]
    model: nn.Module
    normalizer: Normalizer
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    heads: Heads | None = None
    cost: str = DEFAULT_COST

    def save(self, folder: Path | str, card: str) -> None:
        """Writes the folder atomically: what was there before is replaced only when the new one is complete.

        Parameters are stored in half precision (relative error below 0.05 % where above 6e-5), buffers as they are.

        Raises:
            CheckpointError: the folder holds something other than a checkpoint, or a weight exceeds half precision.
        """
        folder = Path(folder)
        check_replaceable(folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _save_weights(self.model, partial / WEIGHTS)
        if self.heads is not None:
            _save_weights(self.heads, partial / HEADS)
        config = {
            "format": FORMAT,
            "model": self.name,
            "model_config": self.model_config,
            "normalizer": asdict(self.normalizer),
            "env": self.env,
            "env_kwargs": self.env_kwargs,
            "training": self.training,
            "heads": None if self.heads is None else self.heads.settings,
            "cost": self.cost,
        }
        (partial / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        (partial / CARD).write_text(card)
        replace_folder(partial, folder)

    @classmethod
    def load(cls, path_or_name: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
        """Loads a checkpoint folder, or one that ships with the package by its name (``pusht-tiny``).

        Raises:
            CheckpointError: nothing is there, or what is there is damaged or of another format.
        """
        folder = find(path_or_name)
        config = _read_config(folder)
        name = config["model"]
        if name not in MODELS:
            raise CheckpointError(f"{folder}: model {name!r} is unknown to this version: it knows {', '.join(MODELS)}")
        try:
            model = MODELS[name](**config["model_config"])
            normalizer = Normalizer(**config["normalizer"])
            heads = Heads(**config["heads"]) if config.get("heads") else None
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / CONFIG} does not describe a {name} model: {error}") from error
        _load_weights(model, folder / WEIGHTS)
        if heads is not None:
            _load_weights(heads, folder / HEADS)
        return cls(
            name=name,
            model_config=config["model_config"],
            model=model.to(device).eval().requires_grad_(False),
            heads=None if heads is None else heads.to(device).eval().requires_grad_(False),
            normalizer=normalizer,
            env=config["env"],
            env_kwargs=config["env_kwargs"],
            training=config["training"],
            cost=config.get("cost", DEFAULT_COST),
        )


def available() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in ZOO.glob(f"*/{CONFIG}"))


def find(path_or_name: Path | str) -> Path:
    """Folder of a checkpoint given by path or by the name of one in the package."""
    for folder in (Path(path_or_name), ZOO / str(path_or_name)):
        if (folder / CONFIG).is_file():
            return folder
    raise CheckpointError(
        f"no checkpoint at {str(path_or_name)!r}: give a folder that holds {CONFIG} and {WEIGHTS}, "
        f"or one of the package's own: {', '.join(available()) or '(none)'}"
    )


def checksum(path_or_name: Path | str) -> str:
    """SHA-256 of a checkpoint's configuration and weights, which results are stamped with."""
    folder = find(path_or_name)
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS, HEADS):
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def check_replaceable(folder: Path | str) -> None:
    """Raises CheckpointError if saving a checkpoint as `folder` would throw away anything but a checkpoint."""
    folder = Path(folder)
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    more = sorted(names - {CONFIG, WEIGHTS, HEADS, CARD})
    if more or (names and CONFIG not in names):
        held = more[0] if more else "no " + CONFIG
        raise CheckpointError(f"{folder} is no checkpoint (it holds {held}): name a folder of its own for the new one")
    if names:
        _read_config(folder)


def target(path_or_name: Path | str, out: Path | str | None) -> Path:
    """Folder for what becomes of a checkpoint: `out`, or where it lies.

    Raises:
        CheckpointError: something else is there, or the checkpoint is the package's own.
    """
    folder = find(path_or_name) if out is None else Path(out)
    if out is None and ZOO in folder.resolve().parents:
        raise CheckpointError(f"{path_or_name} ships with the package and stays as it is: name a folder with --out")
    check_replaceable(folder)
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): copy or train the checkpoint again") from error
    if not isinstance(config, dict) or "format" not in config:
        raise CheckpointError(f"{path} is not an lwm-agent checkpoint: it has no 'format' entry")
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {config['format']!r}; this version reads {FORMAT}: install the lwm-agent that wrote it"
        )
    missing = {"model", "model_config", "normalizer", "env", "env_kwargs", "training"} - config.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}: copy or train the checkpoint again")
    return config


def _save_weights(module: nn.Module, path: Path) -> None:
    parameters = dict(module.named_parameters())
    weights = {
        name: (tensor.half() if name in parameters else tensor).detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
    }
    for name, tensor in weights.items():
        if name in parameters and not tensor.isfinite().all():
            raise CheckpointError(f"{name} has weights beyond 65504, or no numbers: lower learning_rate")
    save_file(weights, path)


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError, struct.error) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy or train the checkpoint again") from error
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    problems += [f"{name} is unexpected" for name in weights.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit what {CONFIG} describes: {'; '.join(sorted(problems)[:5])}")
    model.load_state_dict(weights)
