"""DINOv2 ViT-S/14 as a frozen encoder of patches (arXiv 2304.07193)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MachineError, UserError
from .layers import Attention, mlp
from .pretrained import FrozenEncoder, missing_package

PATCH, WIDTH, HEADS, DEPTH = 14, 384, 6, 12
TRAINED_SIDE = 37
"""Patches along a side of the pictures of 518 px that the positions are stored for."""

OFFSET = 0.1
"""Added to the number of patches when positions are interpolated, as in the released code."""

REPOSITORY, REVISION = "facebook/dinov2-small", "ed25f3a31f01632728cabb09d1542f84ab7b0056"
SAFETENSORS = "model.safetensors"

SHARED = {"mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
TORCH_HUB = SHARED | {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "patches": "patch_embed.proj",
    "attention.out": "attn.proj",
    "attention.qkv": "attn.qkv",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
}
"""Parts of our names, and what they are called in the files of torch.hub."""

HUGGING_FACE = SHARED | {
    "blocks": "encoder.layer",
    "norm.": "layernorm.",
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "attention.out": "attention.output.dense",
    "attention.qkv": "attention.attention.query",
    "scale1": "layer_scale1.lambda1",
    "scale2": "layer_scale2.lambda1",
}
"""The same for the files of the Hugging Face hub, which have query, key and value apart."""


class DinoBlock(nn.Module):
    """Pre-norm transformer block whose two halves are scaled by learned factors (LayerScale)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attention = Attention(WIDTH, HEADS, WIDTH // HEADS, bias=True, causal=False)
        self.mlp = mlp(WIDTH, 4 * WIDTH)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, tokens, width)`` to the same shape."""
        tokens = tokens + self.scale1 * self.attention(self.norm1(tokens))
        return tokens + self.scale2 * self.mlp(self.norm2(tokens))


class DinoV2(FrozenEncoder):
    """Patch tokens of DINOv2 ViT-S/14 after its last norm.

    Args:
        blocks: number of blocks that run, of 12; fewer give the features of an earlier block, through the same norm.
        size: side of the pictures that it sees, px.
    """

    pixel_statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    files: ClassVar[Mapping[str, str]] = {
        SAFETENSORS: "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
        "dinov2_vits14_pretrain.pth": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    }
    source = f"{REPOSITORY} at revision {REVISION}"
    features = WIDTH

    def __init__(self, blocks: int, size: int) -> None:
        super().__init__()
        if not 1 <= blocks <= DEPTH:
            raise UserError(f"encoder_blocks={blocks} must be from 1 to {DEPTH} for dinov2-vits14")
        if size < 1 or size % PATCH:
            raise UserError(f"encoder_size={size} must be a multiple of the patch size, {PATCH}")
        self.size, self.side = size, size // PATCH
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, WIDTH))
        self.blocks = nn.Sequential(*(DinoBlock() for _ in range(blocks)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        """Implements `FrozenEncoder`."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self._positions()
        return self.norm(self.blocks(tokens)[:, 1:])

    def _positions(self) -> Tensor:
        """Positions ``(1, 1 + side * side, width)`` of class token and patches, interpolated from those stored."""
        first, grid = self.positions[:, :1], self.positions[:, 1:]
        if self.side == TRAINED_SIDE:
            return self.positions
        grid = grid.transpose(1, 2).unflatten(2, (TRAINED_SIDE, TRAINED_SIDE))
        scale = (self.side + OFFSET) / TRAINED_SIDE
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Implements `FrozenEncoder`, for the layouts of torch.hub and of the Hugging Face hub."""
        layout = TORCH_HUB if "pos_embed" in weights else HUGGING_FACE
        state = {}
        for name in self.state_dict():
            theirs = name
            for ours, their in layout.items():
                # "norm." is the last norm, not a part of another name.
                theirs = theirs.replace(ours, their, 1) if ours != "norm." or name.startswith(ours) else theirs
            if "attention.query" in theirs:
                parts = [weights[theirs.replace("query", part)] for part in ("query", "key", "value")]
                state[name] = torch.cat(parts).float()
            else:
                state[name] = weights[theirs].float()
        return state

    def published(self) -> Path:
        """Implements `FrozenEncoder`: downloads the pinned revision, once."""
        try:
            from huggingface_hub import hf_hub_download
        except ImportError as error:
            raise missing_package("huggingface_hub", "hub", f"downloads {self.source}") from error
        try:
            return Path(hf_hub_download(REPOSITORY, SAFETENSORS, revision=REVISION))
        except Exception as error:  # of the network, of the disk, of the hub: each has a class of its own
            raise MachineError(
                f"{self.source} cannot be downloaded ({error}): get {SAFETENSORS} elsewhere and name its folder in "
                "LWM_AGENT_PRETRAINED"
            ) from error

    def flops(self) -> float:
        """Implements `FrozenEncoder`."""
        patches = self.side**2
        tokens = 1 + patches
        block = tokens * 12 * WIDTH**2 + 2 * tokens**2 * WIDTH
        return 2.0 * (patches * 3 * PATCH**2 * WIDTH + len(self.blocks) * block)
