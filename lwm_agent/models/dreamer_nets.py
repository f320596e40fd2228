"""Convolutional encoder and decoder of the Dreamer-style agent."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .rssm import RMSNorm, dense

MULTIPLIERS = (2, 3, 4, 4, 4, 4)
"""Channels of the convolutions, from the frame on, in units of `depth`."""

SMALLEST = 4
"""Side of the last map of the encoder, the first of the decoder."""


COARSE = 4
"""Pixels of a frame that a pixel of the coarse picture of the decoder covers, along a side."""


SMALLEST_COLOUR = 0.01
"""Least variance of a direction of colours, as a share of the largest, that is taken for more than rounding."""


class Colours(nn.Module):
    """Colours in which frames vary equally in all directions, from `fit` on.

    The colour of a small object may differ from the others in a direction in which few pixels vary. Measured in this
    way, it counts as much as the rest of the frame. Without it, the agent of Push-T hardly matters in a picture.
    """

    whiten: Tensor  # (C, C)
    restore: Tensor  # (C, C): its inverse

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("whiten", torch.eye(3))
        self.register_buffer("restore", torch.eye(3))

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Learns the variances of `pixels` ``(N, C, h, w)``."""
        values = pixels.double().movedim(1, 0).flatten(1)
        variances, directions = torch.linalg.eigh(values @ values.T / values.shape[1])
        deviations = variances.clamp_min(SMALLEST_COLOUR * float(variances[-1])).sqrt()
        self.whiten.copy_(directions / deviations @ directions.T)
        self.restore.copy_(directions * deviations @ directions.T)

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames ``(N, C, h, w)`` in these colours."""
        return _mix(self.whiten, pixels)

    def invert(self, colours: Tensor) -> Tensor:
        """Frames ``(N, C, h, w)`` of what `forward` gave."""
        return _mix(self.restore, colours)


def _mix(matrix: Tensor, pixels: Tensor) -> Tensor:
    """`matrix` times the channels of `pixels`, in float32 under autocast too: a product would be rounded."""
    channels = pixels.float().unbind(1)
    rows = [sum(weight * channel for weight, channel in zip(row, channels, strict=True)) for row in matrix.float()]
    return torch.stack(rows, dim=1)


class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of each place."""

    def forward(self, maps: Tensor) -> Tensor:
        """``(N, C, h, w)`` to the same shape."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def channels(image_size: int, depth: int, stem: int) -> list[int]:
    """Channels of each convolution of the encoder.

    Raises:
        UserError: no number of convolutions of stride 2 behind the stem leads to a map of `SMALLEST` px.
    """
    sides = [SMALLEST * 2**count for count in range(len(MULTIPLIERS))]
    if stem < 1 or image_size % stem or image_size // stem not in sides:
        choices = ", ".join(str(side * stem) for side in sides)
        raise UserError(f"image_size={image_size} must be one of {choices} with stem={stem}")
    return [depth * multiplier for multiplier in MULTIPLIERS[: sides.index(image_size // stem) + 1]]


class ImageEncoder(nn.Module):
    """Frames ``(N, C, h, w)`` to embeddings ``(N, features)``.

    Args:
        image_size: side of the frames, px.
        depth: unit of the numbers of channels.
        kernel: side of the kernels, odd.
        stem: stride of the first convolution; the others have 2.
    """

    def __init__(self, image_size: int, depth: int, kernel: int, stem: int) -> None:
        super().__init__()
        sizes = channels(image_size, depth, stem)
        first = max(kernel, stem)
        stages: list[nn.Module] = [nn.Conv2d(3, sizes[0], first, stem, (first - stem + 1) // 2)]
        for before, after in pairwise(sizes):
            stages += [ChannelNorm(before), nn.SiLU(), nn.Conv2d(before, after, kernel, 2, kernel // 2)]
        self.stages = nn.Sequential(*stages, ChannelNorm(sizes[-1]), nn.SiLU())
        self.image_size = image_size
        self.features = sizes[-1] * SMALLEST**2

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings ``(N, features)``."""
        # channels_last is several times faster for small convolutions on a CPU.
        return self.stages(pixels.contiguous(memory_format=torch.channels_last)).flatten(1)

    def flops(self) -> float:
        """Floating-point operations of the convolutions of one frame; a multiply-add is two."""
        side, total = self.image_size, 0.0
        for part in self.stages:
            if isinstance(part, nn.Conv2d):
                side //= part.stride[0]
                total += 2.0 * part.weight.numel() * side**2
        return total


class ImageDecoder(nn.Module):
    """Features ``(N, in_features)`` to frames ``(N, C, h, w)``: a coarse picture by linear maps, and details on it.

    Linear maps soon paint the angle of a block. Convolutions, each of which doubles the side by a pixel shuffle, paint
    sharp edges, but spend hundreds of steps on the mean over all angles.
    """

    def __init__(self, in_features: int, units: int, image_size: int, depth: int, kernel: int, stem: int) -> None:
        super().__init__()
        sizes = channels(image_size, depth, stem)[::-1]
        self.coarse = dense(in_features, 2 * units, 2, 3 * (image_size // COARSE) ** 2)
        self.first = dense(in_features, units, 1, sizes[0] * SMALLEST**2)
        stages: list[nn.Module] = []
        for before, after in pairwise(sizes):
            stages += [ChannelNorm(before), nn.SiLU(), _widen(before, after, kernel, 2)]
        self.stages = nn.Sequential(*stages, ChannelNorm(sizes[-1]), nn.SiLU(), _widen(sizes[-1], 3, kernel, stem))

    def forward(self, features: Tensor) -> Tensor:
        """Frames ``(N, C, h, w)`` in float32."""
        maps = self.first(features).unflatten(1, (SMALLEST, SMALLEST, -1)).permute(0, 3, 1, 2)
        details: Tensor = self.stages(maps)
        side = details.shape[-1] // COARSE
        coarse = self.coarse(features).float().unflatten(1, (3, side, side))
        return F.interpolate(coarse, scale_factor=float(COARSE), mode="bilinear") + details.float()


def _widen(before: int, after: int, kernel: int, factor: int) -> nn.Sequential:
    """Maps of `factor` times the side, with `after` channels."""
    return nn.Sequential(nn.Conv2d(before, after * factor**2, kernel, 1, kernel // 2), nn.PixelShuffle(factor))
