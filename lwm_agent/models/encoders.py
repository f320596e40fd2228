"""Frames ``(N, C, h, w)`` to feature vectors ``(N, features)``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import Block


class ViT(nn.Module):
    """Vision transformer (ViT-Tiny by default) that answers with its class token after the last norm."""

    def __init__(
        self, image_size: int, patch_size: int = 14, width: int = 192, depth: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} must be a multiple of the patch size, {patch_size}")
        self.features = width
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (image_size // patch_size) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, pixels: Tensor) -> Tensor:
        """Class token ``(N, width)``."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        return self.norm(self.blocks(tokens)[:, 0])


class ConvNet(nn.Module):
    """Cheap convolutional encoder: a stem of stride 4, 3x3 convolutions of stride 2, a hidden layer.

    The flattened map keeps where things are; the hidden layer turns that into what does not depend on it, such as
    angles.
    """

    def __init__(self, image_size: int, widths: Sequence[int] = (64, 128, 256), hidden: int = 512) -> None:
        super().__init__()
        stride = 4 * 2 ** (len(widths) - 1)
        if image_size % stride:
            raise ValueError(f"image_size={image_size} must be a multiple of {stride} with {len(widths)} stages")
        self.features = hidden
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), nn.GroupNorm(8, widths[0]), nn.ReLU()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
        cells = (image_size // stride) ** 2
        layers += [nn.Flatten(), nn.Linear(widths[-1] * cells, hidden), nn.LayerNorm(hidden), nn.GELU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature vectors ``(N, hidden)``."""
        # channels_last is several times faster for small convolutions in bf16 on a CPU.
        return self.layers(pixels.contiguous(memory_format=torch.channels_last))


ENCODERS = {"vit": ViT, "conv": ConvNet}
