"""Checkpoints: a folder with config.json, model.safetensors and README.md, all that planning needs and no pickle.

Heads, learned on top of the world model, lie beside it in heads.safetensors. config.json holds a SHA-256 of each file,
and of its own other entries.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint_config import (
    CARD,
    CONFIG,
    DECODER,
    EXTERNAL,
    FORMAT,
    HASHES,
    HEADS,
    REPLAN,
    WEIGHTS,
    check_external,
    check_units,
    external_entry,
    hash_of,
    read_config,
    serialized,
)
from .decoder_file import load_decoder, save_decoder
from .errors import FileError, UserError
from .files import advice, check_writable, recover_folder, replacing_folder, resolved, write_text
from .models import Decoder, Heads, LatentModel, Painter, WorldModel, find_model
from .normalizer import Normalizer
from .protocols import DEFAULT_COST, PARTS, GoalActor, GoalPolicy
from .validation import check_arguments
from .weights import CheckpointError, build, load_weights, save_weights, sha256

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "checksum",
    "find_checkpoint",
    "output_folder",
    "shipped_checkpoints",
    "shipped_with",
]

ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model and the conventions under which it was trained.

    Attributes:
        name: name in `MODELS`.
        model_config: constructor arguments of the model.
        model: the model, in evaluation mode, its weights frozen.
        normalizer: units of pictures and actions.
        env: name of the environment on the command line, or a Gymnasium id.
        env_kwargs: conventions of the data (image size, fidelity, control mode...), as in `EnvSpec`.
        training: settings, data and validation results of the training, for the model card.
        heads: actor, temporal distance and maybe a contrast learned on its latents, or None.
        cost: planning cost that agents use by default, such as one chosen on validation tasks.
        replan_every_env_steps: environment steps between two plans of agents by default; None is a block.
        decoder: painter of latents, to look at what the model imagines, or None.
    """

    name: str
    model_config: dict[str, Any]
    model: LatentModel
    normalizer: Normalizer
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    heads: Heads | None = None
    cost: str = DEFAULT_COST
    replan_every_env_steps: int | None = None
    decoder: Decoder | None = None

    @property
    def goal_actor(self) -> GoalActor | None:
        """The learned actor: of the heads, or the world model's own."""
        if self.heads is not None:
            return self.heads
        return self.model.goal_actor if isinstance(self.model, WorldModel) else None

    @property
    def policy(self) -> GoalPolicy | None:
        """The learned policy that acts without a search: the heads' actor, or the model's own."""
        return self.model.policy if self.heads is None else self.heads

    @property
    def world_model(self) -> WorldModel:
        """The model, where it can imagine.

        Raises:
            UserError: it cannot.
        """
        if not isinstance(self.model, WorldModel):
            raise UserError(
                f"a {self.name} model imagines no futures, so that no search can use it: pass --planner policy"
            )
        return self.model

    @property
    def usual_surprise(self) -> float:
        """Mean of the model's `surprise` on the validation data of its training; 1 where no record tells it."""
        for record in (self.training.get("predictor"), self.training):
            losses = record.get("validation") if isinstance(record, Mapping) else None
            usual = losses.get(self.world_model.prediction_loss) if isinstance(losses, Mapping) else None
            if isinstance(usual, int | float) and 0 < usual < math.inf:
                return float(usual)
        return 1.0

    @property
    def paints(self) -> bool:
        """True if `paint` can show latents."""
        return self.decoder is not None or isinstance(self.model, Painter)

    def paint(self, latents: Tensor) -> NDArray[np.uint8]:
        """Pictures ``(N, h, w, 3)`` of `latents` ``(N, *Z)``, by the decoder, or by a model that paints itself.

        Raises:
            UserError: there is none.
        """
        painter = self.model if self.decoder is None else self.decoder
        latents = latents.to(next(painter.parameters()).device)
        if self.decoder is not None:
            frames = self.decoder(self.model.summary(latents))
        elif isinstance(self.model, Painter):
            frames = self.model.decode(latents)
        else:
            raise UserError("this checkpoint paints no pictures: train a decoder with `lwm-agent train-decoder`")
        return self.normalizer.frames(frames)

    def save(self, folder: Path | str, card: str, exact: bool = False) -> None:
        """Writes the folder atomically: an earlier checkpoint is replaced only when the new one is complete.

        Parameters are stored in half precision (relative error below 0.05 % where above 6e-5), buffers as they are.
        With `exact`, parameters stay as they are too.

        Raises:
            CheckpointError: the folder holds something other than a checkpoint, or a weight exceeds half precision.
            FileError: the folder cannot be written, or the disk is full.
        """
        check_replaceable(folder)
        with replacing_folder(folder) as work:
            modules = {WEIGHTS: self.model, **({} if self.heads is None else {HEADS: self.heads})}
            for name, module in modules.items():
                save_weights(module, work / name, exact)
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
                **({} if self.replan_every_env_steps is None else {REPLAN: self.replan_every_env_steps}),
                **({EXTERNAL: external} if (external := external_entry(self.model)) else {}),
            }
            if self.decoder is not None:
                save_decoder(self.decoder, work / DECODER)
            hashes = {name: sha256(work / name) for name in modules}
            write_text(work / CONFIG, serialized(config | {HASHES: {CONFIG: hash_of(config), **hashes}}))
            write_text(work / CARD, card)

    @classmethod
    def load(cls, path_or_name: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
        """Loads a checkpoint folder, or one that ships with the package by its name (``pusht-tiny``).

        Raises:
            CheckpointError: nothing is there, or what is there is damaged or of another format.
        """
        folder = find_checkpoint(path_or_name)
        config = read_config(folder)
        path, name = folder / CONFIG, config["model"]
        try:
            kind = find_model(name).model
        except UserError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        try:
            check_arguments("model_config", kind, config["model_config"])
            normalizer = Normalizer(**config["normalizer"])
            if config.get("heads") is not None:
                check_arguments("heads", Heads, config["heads"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} does not describe a {name} model: {error}") from error
        what = f"{path} does not describe a {name} model: it"
        external = len(kind.external_parts) > 0
        model = build(lambda: kind(**config["model_config"]), folder / WEIGHTS, what, external)
        heads = None if config.get("heads") is None else build(lambda: Heads(**config["heads"]), folder / HEADS, what)
        check_units(path, model, normalizer, config)
        _check_hashes(folder, config)
        load_weights(model, folder / WEIGHTS)
        model.load_external_weights()
        check_external(folder, model, config)
        if heads is not None:
            load_weights(heads, folder / HEADS)
        painted = (folder / DECODER).exists()
        decoder = load_decoder(folder / DECODER, model.summary_size) if painted else None
        return cls(
            name=name,
            model_config=config["model_config"],
            model=model.to(device).eval().requires_grad_(False),
            heads=None if heads is None else heads.to(device).eval().requires_grad_(False),
            normalizer=normalizer,
            env=config["env"],
            env_kwargs=config["env_kwargs"],
            training=_migrated(config["training"], config["model"]),
            cost=config.get("cost", DEFAULT_COST),
            replan_every_env_steps=config.get(REPLAN),
            decoder=None if decoder is None else decoder.to(device),
        )


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in ZOO.glob(f"*/{CONFIG}"))


def find_checkpoint(path_or_name: Path | str) -> Path:
    """Folder of a checkpoint, from its path or from the name of one that ships with the package.

    A save that was interrupted between two renames is finished first.
    """
    name = str(path_or_name)
    if not name:
        raise CheckpointError(f"the name of the checkpoint is empty: {_choices()}")
    folder = Path(path_or_name)
    try:
        recover_folder(folder)
        if (folder / CONFIG).is_file():
            return folder
        if name in shipped_checkpoints():
            return ZOO / name
        inner = folder / "checkpoint"
        hint = f"do you mean {inner}? Or " if (inner / CONFIG).is_file() else ""
    except (FileError, OSError) as error:
        raise CheckpointError(f"the checkpoint {name!r} cannot be read: {advice(error)}") from error
    raise CheckpointError(f"no checkpoint at {name!r}: {hint}{_choices()}")


def checksum(path_or_name: Path | str) -> str:
    """SHA-256 of a checkpoint's configuration and weights; results are stamped with it.

    Neither its hashes are part of it nor how often agents plan by default: results have that beside it.
    """
    folder = find_checkpoint(path_or_name)
    config = read_config(folder)
    known = HASHES in config
    for entry in (HASHES, REPLAN):
        config.pop(entry, None)
    digest = hashlib.sha256(serialized(config).encode() if known else (folder / CONFIG).read_bytes())
    for name in (WEIGHTS, HEADS):
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def shipped_with(digest: str) -> str | None:
    """Name of the package's checkpoint whose `checksum` is `digest`, None if there is none."""
    return next((name for name in shipped_checkpoints() if checksum(name) == digest), None)


def check_replaceable(folder: Path | str) -> None:
    """Raises an error if a checkpoint could not be saved as `folder`, or would throw away anything but a checkpoint."""
    place = resolved(folder)
    recover_folder(place)
    if place.is_dir():
        names = {path.name for path in place.iterdir()}
        more = sorted(names - {CONFIG, WEIGHTS, HEADS, DECODER, CARD})
        if more or (names and CONFIG not in names):
            entry = more[0] if more else "no " + CONFIG
            raise CheckpointError(
                f"{folder} is no checkpoint (it holds {entry}): name a folder of its own for the new one"
            )
        if names:
            read_config(place)
    elif place.exists():
        raise CheckpointError(f"{folder} is no checkpoint (it is a file): name a folder of its own for the new one")
    check_writable(place, folder=True)


def output_folder(path_or_name: Path | str, out: Path | str | None) -> Path:
    """Folder for the checkpoint that a command makes of another: `out`, or where that lies.

    Raises:
        CheckpointError: something else is there, or the checkpoint is the package's own.
        FileError: the folder cannot be written.
    """
    folder = find_checkpoint(path_or_name) if out is None else Path(out)
    if out is None and ZOO.resolve() in folder.resolve().parents:
        raise CheckpointError(f"{path_or_name} ships with the package and stays as it is: name a folder with --out")
    check_replaceable(folder)
    return folder


def _choices() -> str:
    return (
        f"give a folder that holds {CONFIG} and {WEIGHTS}, or one of the package's own: "
        f"{', '.join(shipped_checkpoints()) or '(none)'}"
    )


def _check_hashes(folder: Path, config: Mapping[str, Any]) -> None:
    """Compares the files with their SHA-256; checkpoints of earlier versions have none."""
    hashes = config.get(HASHES)
    if hashes is None:
        return
    names = [CONFIG, WEIGHTS, *([] if config.get("heads") is None else [HEADS])]
    for name in names:
        actual = hash_of(config) if name == CONFIG else sha256(folder / name)
        if hashes.get(name) != actual:
            raise CheckpointError(
                f"{folder / name} is not what was saved: its SHA-256 is {actual}, and {CONFIG} says "
                f'{hashes.get(name)}: copy the checkpoint again, or remove "{HASHES}" from {CONFIG} to use it as it is'
            )


def _migrated(training: dict[str, Any], model: str) -> dict[str, Any]:
    """The record of a training as this version writes it; earlier ones called the model's settings "model"."""
    stages = [name for name in (*PARTS, "before") if isinstance(training.get(name), dict)]
    parts: dict[str, Any] = {name: _migrated(training[name], model) for name in stages}
    if isinstance(training.get("model"), dict):
        parts |= {"model": model, "model_settings": training["model"]}
    return {**training, **parts}
