"""Scalars as distributions over bins (DreamerV3, arXiv 2301.04104): the loss is a cross-entropy, whatever the scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """Logarithm of large numbers of either sign, the identity near 0."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Bins that are equally far apart under `symlog`.

    Args:
        limit: `symlog` of the largest bin.
        bins: number of bins, odd, so that one of them is 0.
    """

    values: Tensor  # (bins,)

    def __init__(self, limit: float = 20.0, bins: int = 255) -> None:
        super().__init__()
        self.register_buffer("values", symexp(torch.linspace(-limit, limit, bins)), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """Weights ``(..., bins)`` of the two bins around each of `x` ``(...)``, whose mean is `x`."""
        x = x.clamp(self.values[0], self.values[-1])
        above = torch.searchsorted(self.values, x.contiguous()).clamp(1, len(self.values) - 1)
        low, high = self.values[above - 1], self.values[above]
        share = ((x - low) / (high - low)).unsqueeze(-1)
        weights = torch.zeros(*x.shape, len(self.values), dtype=x.dtype, device=x.device)
        return weights.scatter(-1, above.unsqueeze(-1), share).scatter(-1, above.unsqueeze(-1) - 1, 1 - share)

    def decode(self, logits: Tensor) -> Tensor:
        """Mean ``(...)`` of the distribution `logits` ``(..., bins)``.

        Bins of opposite sign are added first: the mean of equal logits is exactly 0.
        """
        weighted = logits.float().softmax(-1) * self.values
        half = len(self.values) // 2
        return (weighted[..., half + 1 :] + weighted[..., :half].flip(-1)).sum(-1)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy ``(...)`` of `logits` ``(..., bins)`` at the numbers `target` ``(...)``."""
        return -(self.encode(target) * logits.float().log_softmax(-1)).sum(-1)
