"""Weight files in the public layouts of the frozen encoders, with random numbers, as users have real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lwm_agent.models.efficientnet import STAGES, STEM

Weights = dict[str, Tensor]


def torch_hub_dino(blocks: int = 1, seed: int = 0) -> Weights:
    """The layout of ``dinov2_vits14_pretrain.pth``."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 1370, 384),
        "mask_token": (1, 384),
        "patch_embed.proj.weight": (384, 3, 14, 14),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    for number in range(blocks):
        block: dict[str, tuple[int, ...]] = {
            **{f"{norm}.{part}": (384,) for norm in ("norm1", "norm2") for part in ("weight", "bias")},
            "attn.qkv.weight": (1152, 384),
            "attn.qkv.bias": (1152,),
            "attn.proj.weight": (384, 384),
            "attn.proj.bias": (384,),
            "ls1.gamma": (384,),
            "mlp.fc1.weight": (1536, 384),
            "mlp.fc1.bias": (1536,),
            "mlp.fc2.weight": (384, 1536),
            "mlp.fc2.bias": (384,),
            "ls2.gamma": (384,),
        }
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def hugging_face_dino(weights: Weights) -> Weights:
    """The same weights in the layout of the Hugging Face hub."""
    renamed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "mask_token": "embeddings.mask_token",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    result = {}
    for name, tensor in weights.items():
        other = name
        for old, new in renamed.items():
            other = other.replace(old, new)
        other = other.replace("blocks.", "encoder.layer.") if name.startswith("blocks.") else other
        other = "layernorm." + other.removeprefix("norm.") if other.startswith("norm.") else other
        if "attn.qkv" in other:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[other.replace("attn.qkv", f"attention.attention.{part}")] = rows.contiguous()
        else:
            result[other] = tensor
    return result


def efficientnet_lite0(seed: int = 0) -> Weights:
    """The layout of ``efficientnet-lite0-57934424.pth``, without the parts that classify."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        fan = shape[1] * shape[2] * shape[3]
        weights[f"{conv}.weight"] = torch.randn(shape, generator=generator) * fan**-0.5
        for part in ("weight", "bias", "running_mean"):
            weights[f"{norm}.{part}"] = 0.5 + 0.5 * torch.randn(shape[0], generator=generator)
        weights[f"{norm}.running_var"] = 0.5 + torch.rand(shape[0], generator=generator)

    add("_conv_stem", "_bn0", STEM, 3, 3, 3)
    before, number = STEM, 0
    for repeats, kernel, _, expansion, channels in STAGES:
        for _ in range(repeats):
            name, wide = f"_blocks.{number}", before * expansion
            if expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", wide, before, 1, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel, kernel)
            add(f"{name}._project_conv", f"{name}._bn2", channels, wide, 1, 1)
            before, number = channels, number + 1
    return weights


def write_all(folder: Path) -> Path:
    """A folder for ``LWM_AGENT_PRETRAINED`` with a file of each encoder."""
    save_file(hugging_face_dino(torch_hub_dino()), folder / "model.safetensors")
    torch.save(efficientnet_lite0(), folder / "efficientnet-lite0-57934424.pth")
    return folder
