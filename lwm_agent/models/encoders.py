"""Frames ``(N, C, h, w)`` to feature vectors ``(N, features)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import UserError
from .layers import Block, conv_flops, linear_weights


class ViT(nn.Module):
    """Vision transformer (ViT-Tiny by default) that answers with its class token after the last norm."""

    def __init__(
        self, image_size: int, patch_size: int = 14, width: int = 192, depth: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise UserError(f"image_size={image_size} must be a multiple of the patch size, {patch_size}")
        self.features = width
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (image_size // patch_size) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def flops(self) -> float:
        """Floating-point operations of one frame: convolution, linear maps and products of attention."""
        tokens, width = self.positions.shape[1:]
        attention = 2 * 2 * tokens * tokens * width * len(self.blocks)
        return conv_flops(self.patches, tokens - 1) + 2.0 * tokens * linear_weights(self.blocks) + attention

    def forward(self, pixels: Tensor) -> Tensor:
        """Class token ``(N, width)``."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        return self.norm(self.blocks(tokens)[:, 0])


class ConvNet(nn.Module):
    """Cheap convolutional encoder for small frames: three convolutions, read out in three ways.

    A hidden layer over the flattened last map says roughly where things are, the spatial softmax (arXiv 1504.00702)
    where exactly, and the means and mean squares of the last two what is seen wherever it is. The pooled features
    have a direct way out because a block's angle, which they hold early, is otherwise lost for thousands of steps.
    """

    def __init__(self, image_size: int, hidden: int = 512, keypoints: int = 32) -> None:
        super().__init__()
        if image_size % 16:
            raise UserError(f"image_size={image_size} must be a multiple of 16")
        self.sides = (image_size // 4, image_size // 8, image_size // 16)
        self.stages = nn.ModuleList([_stage(3, 64, 4, 4, 0), _stage(64, 128, 3, 2, 1), _stage(128, 256, 3, 2, 1)])
        self.keypoints = nn.ModuleList([nn.Conv2d(64, keypoints, 1), nn.Conv2d(128, keypoints, 1)])
        sizes = (256 * (image_size // 16) ** 2, 2 * (128 + 256), 2 * 2 * keypoints)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes)
        self.hidden = nn.Sequential(nn.Linear(sum(sizes), hidden), nn.LayerNorm(hidden), nn.GELU())
        self.features = hidden + sizes[1] + sizes[2]

    def flops(self) -> float:
        """Floating-point operations of one frame: convolutions and linear maps."""
        stages = sum(conv_flops(stage, side**2) for stage, side in zip(self.stages, self.sides, strict=True))
        places = sum(conv_flops(find, side**2) for find, side in zip(self.keypoints, self.sides[:2], strict=True))
        return stages + places + 2.0 * linear_weights(self.hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature vectors ``(N, features)``."""
        # channels_last is several times faster for small convolutions in bf16 on a CPU.
        maps = [pixels.contiguous(memory_format=torch.channels_last)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        pooled = [moment.mean((2, 3)) for features in maps[2:] for moment in (features, features.square())]
        places = [_spatial_softmax(find(features)) for find, features in zip(self.keypoints, maps[1:3], strict=True)]
        views = (maps[3].flatten(1), torch.cat(pooled, dim=1), torch.cat(places, dim=1))
        flat, pool, place = (norm(view) for norm, view in zip(self.norms, views, strict=True))
        return torch.cat([self.hidden(torch.cat([flat, pool, place], dim=1)), pool, place], dim=1)


def _stage(before: int, after: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, padding), nn.GroupNorm(8, after), nn.ReLU())


def _spatial_softmax(maps: Tensor) -> Tensor:
    """Expected place of each of ``(N, K, h, w)`` maps' mass, ``(N, 2K)``, on axes from -2 to 2."""
    mass = maps.flatten(2).float().softmax(-1).unflatten(-1, maps.shape[2:])
    rows, columns = (torch.linspace(-2, 2, size, dtype=torch.float32, device=maps.device) for size in maps.shape[2:])
    return torch.cat([mass.sum(3) @ rows, mass.sum(2) @ columns], dim=1)


ENCODERS = {"vit": ViT, "conv": ConvNet}
