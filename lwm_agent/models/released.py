"""Released weights of LeWorldModel (arXiv 2603.19312): tensors as its authors name them, as ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .lewm import LeWorldModel

PIXEL_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each colour that the released weights were trained with: ImageNet's."""

ENCODER = {
    "patches.": "embeddings.patch_embeddings.projection.",
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "norm.": "layernorm.",
}
BLOCKS = {
    "norm1.": ("layernorm_before.", "layernorm_before."),
    "norm2.": ("layernorm_after.", "layernorm_after."),
    "attention.out.": ("attention.output.dense.", "attention.o_proj."),
    "mlp.0.": ("intermediate.dense.", "mlp.fc1."),
    "mlp.3.": ("output.dense.", "mlp.fc2."),
}
"""Parts of a block of the encoder, as `transformers` 4 and 5 name them."""

LAYERS = ("encoder.layer", "layers")
QUERY_KEY_VALUE = (
    ("attention.attention.query.", "attention.attention.key.", "attention.attention.value."),
    ("attention.q_proj.", "attention.k_proj.", "attention.v_proj."),
)
PREDICTOR = {
    "positions": "predictor.pos_embedding",
    "norm.": "predictor.transformer.norm.",
    "action_embedding.0.": "action_encoder.patch_embed.",
    "action_embedding.1.": "action_encoder.embed.0.",
    "action_embedding.3.": "action_encoder.embed.2.",
    "output_proj.": "pred_proj.net.",
}
PREDICTOR_BLOCKS = {
    "attention_norm.": "attn.norm.",
    "mlp_norm.": "mlp.net.0.",
    "attention.qkv.": "attn.to_qkv.",
    "attention.out.": "attn.to_out.0.",
    "mlp.0.": "mlp.net.1.",
    "mlp.3.": "mlp.net.4.",
    "modulation.1.": "adaLN_modulation.1.",
}


def load_released(model: LeWorldModel, weights: Mapping[str, Tensor]) -> None:
    """Gives `model`, made with `released_settings`, the released weights.

    Raises:
        UserError: a tensor is missing, unknown, not finite or of another shape.
    """
    weights = _without_prefix(weights)
    state, used = {}, set()
    for name, own in model.state_dict().items():
        theirs = _names(name, weights)
        absent = [their for their in theirs if their not in weights]
        if absent:
            raise UserError(f"there is no {absent[0]!r}: these are not the weights of a released LeWorldModel")
        used |= set(theirs)
        state[name] = _joined([weights[their] for their in theirs], own, theirs[0])
    unknown = sorted(weights.keys() - used)
    if unknown:
        raise UserError(f"{unknown[0]!r} is no part of LeWorldModel ({len(unknown)} such tensors)")
    model.load_state_dict(state)


def released_settings(weights: Mapping[str, Tensor], config: Mapping[str, Any], action_size: int) -> dict[str, Any]:
    """Constructor arguments of `LeWorldModel` for released weights.

    Sizes follow from the tensors; the number of the predictor's heads, which does not, from ``config.json``.

    Args:
        weights: tensors of ``weights.pt``.
        config: contents of ``config.json``.
        action_size: A, numbers in an environment action.

    Raises:
        UserError: the architecture is not LeWorldModel's, or is of a size that is not known.
    """
    weights = _without_prefix(weights)
    try:
        tokens, width = weights["encoder.embeddings.position_embeddings"].shape[1:]
        patch = weights["encoder.embeddings.patch_embeddings.projection.weight"].shape[-1]
        block = weights["action_encoder.patch_embed.weight"].shape[1]
        history = weights["predictor.pos_embedding"].shape[1]
        inner = weights["predictor.transformer.layers.0.attn.to_qkv.weight"].shape[0] // 3
        mlp_size, predictor_width = weights["predictor.transformer.layers.0.mlp.net.1.weight"].shape
        projector_size = weights["projector.net.0.weight"].shape[0]
        latent_size = weights["projector.net.3.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"these are not the weights of a released LeWorldModel ({error})") from error
    if (width, patch) != (192, 14):
        raise UserError(f"the encoder has width {width} and patches of {patch} px: only ViT-Tiny, 192 and 14, is known")
    if block % action_size:
        raise UserError(f"the weights take blocks of {block} numbers, no multiple of the {action_size} of an action")
    if latent_size != predictor_width:
        raise UserError(f"latents of {latent_size} numbers before a predictor of width {predictor_width} are not known")
    predictor = config.get("predictor", {})
    heads = predictor.get("heads", inner // 64) if isinstance(predictor, Mapping) else 0
    if not isinstance(heads, int) or heads < 1 or inner % heads:
        raise UserError(f"config.json has predictor.heads={heads!r}, and the attention {inner} numbers: copy it again")
    return {
        "action_size": action_size,
        "frameskip": block // action_size,
        "image_size": 14 * math.isqrt(tokens - 1),
        "latent_size": latent_size,
        "projector_size": projector_size,
        "history": history,
        "depth": sum(name.endswith("attn.to_qkv.weight") for name in weights),
        "width": predictor_width,
        "heads": heads,
        "head_size": inner // heads,
        "mlp_size": mlp_size,
    }


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they have inside the model; Lightning puts "model." before them."""
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def _names(name: str, weights: Mapping[str, Tensor]) -> list[str]:
    """Released names of one of our tensors: one, or those of query, key and value."""
    room, _, rest = name.partition(".")
    if room == "encoder":
        return [f"encoder.{their}" for their in _encoder_names(rest, weights)]
    if room == "projector":
        return [f"projector.net.{rest}"]
    if rest.startswith("blocks."):
        _, number, part = rest.split(".", 2)
        return [f"predictor.transformer.layers.{number}.{_renamed(part, PREDICTOR_BLOCKS)}"]
    return [_renamed(rest, PREDICTOR)]


def _encoder_names(rest: str, weights: Mapping[str, Tensor]) -> list[str]:
    if not rest.startswith("blocks."):
        return [_renamed(rest, ENCODER)]
    version = 0 if any(name.startswith("encoder.encoder.layer.") for name in weights) else 1
    _, number, part = rest.split(".", 2)
    place = f"{LAYERS[version]}.{number}."
    if part.startswith("attention.qkv."):
        return [place + their + part.removeprefix("attention.qkv.") for their in QUERY_KEY_VALUE[version]]
    return [place + _renamed(part, {ours: names[version] for ours, names in BLOCKS.items()})]


def _renamed(name: str, names: Mapping[str, str]) -> str:
    ours = next(ours for ours in names if name.startswith(ours))
    return names[ours] + name.removeprefix(ours)


def _joined(parts: list[Tensor], own: Tensor, name: str) -> Tensor:
    """Tensors one below the other, in the shape and type of our own; a released one may have axes of size 1."""
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    if joined.numel() != own.numel() or [n for n in joined.shape if n > 1] != [n for n in own.shape if n > 1]:
        raise UserError(f"{name!r} has shape {tuple(parts[0].shape)}: expected {tuple(own.shape)} in all")
    if not joined.isfinite().all():
        raise UserError(f"{name!r} has numbers that are not finite: download the weights again")
    return joined.reshape(own.shape).to(own.dtype)
