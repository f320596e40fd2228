"""The file of a decoder: weights in safetensors, its settings and its record in the header.

It lies beside a checkpoint's other files, but config.json does not know it: results are of the same checkpoint with and
without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from .models import Decoder
from .validation import check_arguments
from .weights import CheckpointError, build, digest_of, load_weights, open_regular, packed, reading, save_weights

HEADER = "decoder"
ENTRIES = {"settings", "record", "sha256"}


def save_decoder(decoder: Decoder, path: Path) -> None:
    """Writes parameters in half precision, and buffers as they are."""
    header = {"settings": decoder.settings, "record": decoder.record, "sha256": digest_of(packed(decoder))}
    save_weights(decoder, path, metadata={HEADER: json.dumps(header)})


def load_decoder(path: Path, latent_size: int) -> Decoder:
    """The decoder in a file, for latents of `latent_size` numbers.

    Raises:
        CheckpointError: the file is damaged, or is of another model's latents.
    """
    open_regular(path)
    with reading(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        header: dict[str, Any] = json.loads(metadata[HEADER])
        if header.keys() != ENTRIES or not isinstance(header["record"], dict):
            raise ValueError(f"its header has {', '.join(header)}")
        check_arguments("settings", Decoder, header["settings"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no decoder ({error}): copy or train it again") from error
    if header["settings"].get("latent_size") != latent_size:
        raise CheckpointError(f"{path} paints latents of other sizes than those of this model: train a decoder for it")
    decoder = build(lambda: Decoder(**header["settings"]), path, f"{path} has no settings of a decoder: it")
    with reading(path):
        if digest_of(load_file(path)) != header["sha256"]:
            raise CheckpointError(f"{path} is not what was saved: copy or train it again")
    load_weights(decoder, path)
    decoder.record = header["record"]
    return decoder.eval().requires_grad_(False)
