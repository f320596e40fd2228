"""The config.json of a checkpoint: which entries it has, and what each may be."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .envs import spec_of
from .errors import UserError
from .files import advice, read_text
from .models import LatentModel
from .normalizer import Normalizer
from .protocols import DEFAULT_COST
from .validation import check_type, has_type
from .weights import CheckpointError, external_digests

FORMAT = 1
CONFIG, WEIGHTS, HEADS, CARD = "config.json", "model.safetensors", "heads.safetensors", "README.md"
DECODER = "decoder.safetensors"
"""Its settings and record are in its own header: whether there is one changes nothing that an agent does."""
HASHES = "sha256"
EXTERNAL = "external"
"""Entry with the source and the SHA-256 of each part whose weights come from elsewhere."""
ENTRIES: dict[str, type] = {  # of config.json
    "format": int,
    "model": str,
    "model_config": dict,
    "normalizer": dict,
    "env": str,
    "env_kwargs": dict,
    "training": dict,
}
REPLAN = "replan_every_env_steps"
OPTIONAL_ENTRIES = {"heads": dict | None, "cost": str, REPLAN: int, EXTERNAL: dict, HASHES: dict}
MOST_BYTES = 1 << 24
"""Largest config.json that is read."""


def serialized(config: Mapping[str, Any]) -> str:
    """Text of a config.json."""
    return json.dumps(config, indent=1) + "\n"


def read_config(folder: Path) -> dict[str, Any]:
    """The entries of config.json, each of its type."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path} is larger than {MOST_BYTES} bytes: copy or train the checkpoint again")
        config = json.loads(read_text(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({advice(error)})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(f"{path} is not valid JSON ({error}): copy or train the checkpoint again") from error
    if not isinstance(config, dict) or "format" not in config:
        raise CheckpointError(f"{path} is not an lwm-agent checkpoint: it has no 'format' entry")
    if config["format"] != FORMAT or not isinstance(config["format"], int) or isinstance(config["format"], bool):
        raise CheckpointError(
            f"{path} has format {config['format']!r}; this version reads {FORMAT}: install the lwm-agent that wrote it"
        )
    _check_entries(path, config)
    return config


def _check_entries(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses missing and unknown entries, and values of another type."""
    missing = ENTRIES.keys() - config.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}: copy or train the checkpoint again")
    kinds = {**ENTRIES, **OPTIONAL_ENTRIES}
    unknown = config.keys() - kinds.keys()
    if unknown:
        raise CheckpointError(
            f"{path} has unknown entries {', '.join(map(repr, sorted(unknown)))}: choose from {', '.join(kinds)}, or "
            "install the lwm-agent that wrote it"
        )
    for name, value in config.items():
        try:
            check_type(str(path), name, value, kinds[name])
        except TypeError as error:
            raise CheckpointError(f"{error}: copy or train the checkpoint again") from error
    if not config["env"] or not config.get("cost", DEFAULT_COST):
        raise CheckpointError(f"{path}: env and cost must not be empty: copy or train the checkpoint again")
    if config.get(REPLAN, 1) < 1:
        raise CheckpointError(f"{path}: {REPLAN} must be at least 1: copy or train the checkpoint again")
    _check_conventions(path, config["env"], config["env_kwargs"])


def _check_conventions(path: Path, env: str, env_kwargs: Mapping[str, Any]) -> None:
    """Refuses arguments that are not finite, and conventions of the package's own environments of another type."""
    spec = spec_of(env)
    defaults = {} if spec is None else spec.conventions
    for name, value in env_kwargs.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        if not finite or (name in defaults and not has_type(value, type(defaults[name]))):
            raise CheckpointError(f"{path}: env_kwargs has {name}={value!r}: copy or train the checkpoint again")


def check_units(path: Path, model: LatentModel, units: Normalizer, config: Mapping[str, Any]) -> None:
    """Compares the sizes of actions, latents and frames that model, normalizer, heads and env_kwargs state."""
    heads = config.get("heads") or {}
    sizes = {
        "actions in normalizer": (units.action_size, model.action_size),
        "block_size of heads": (heads.get("block_size"), model.block_size),
        "latent_size of heads": (heads.get("latent_size"), model.summary_size),
        "image_size in env_kwargs": (config["env_kwargs"].get("image_size"), model.image_size),
    }
    wrong = [
        f"{name} is {stated!r} and the model's {own}"
        for name, (stated, own) in sizes.items()
        if stated not in (None, own)
    ]
    if wrong:
        raise CheckpointError(f"{path} contradicts itself: {'; '.join(wrong)}: copy or train the checkpoint again")


def hash_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, but for its hashes."""
    return hashlib.sha256(serialized({k: v for k, v in config.items() if k != HASHES}).encode()).hexdigest()


def external_entry(model: LatentModel) -> dict[str, dict[str, str]]:
    """Source and SHA-256 of each part of `model` whose weights come from elsewhere."""
    sources = model.external_sources()
    return {part: {"source": sources.get(part, ""), HASHES: digest} for part, digest in external_digests(model).items()}


def check_external(folder: Path, model: LatentModel, config: Mapping[str, Any]) -> None:
    """Refuses weights from elsewhere that are not those that the checkpoint was trained with."""
    for part, digest in external_digests(model).items():
        entry = config.get(EXTERNAL, {}).get(part)
        if not isinstance(entry, dict) or entry.get(HASHES) != digest:
            expected, source = (entry.get(HASHES), entry.get("source")) if isinstance(entry, dict) else (None, None)
            raise CheckpointError(
                f"{folder} was trained with another {part}: the SHA-256 of its weights is {expected}, and that of "
                f"those found here is {digest}: bring those of {source or 'its training'} here"
            )
