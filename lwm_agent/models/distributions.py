"""Distributions of the latents of a recurrent state-space model.

Both kinds are described by their mean alone, so that a belief is the same whatever its latents are.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

UNIMIX = 0.01
"""Share of a uniform distribution in every categorical, so that no logarithm of a probability is infinite."""

DEVIATION = 0.1
"""Deviation of normal latents. Their means spread as far as pictures need them to."""


class Latents(Protocol):
    """A kind of distribution. A mean ``(..., Z)`` describes one."""

    size: int
    """Z."""

    def mean(self, raw: Tensor) -> Tensor:
        """Means ``(..., Z)`` of a network's outputs ``(..., Z)``."""

    def draw(self, mean: Tensor) -> Tensor:
        """Latents ``(..., Z)``, with a gradient to the mean."""

    def kl(self, first: Tensor, second: Tensor) -> Tensor:
        """Divergence ``(...)``, in nats, of the distributions with mean `first` from those with `second`."""

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Squared difference ``(...)`` of two means, of a size that does not depend on Z."""


class Categoricals:
    """Categoricals of DreamerV3 (arXiv 2301.04104): one-hot latents, whose mean are the probabilities.

    Args:
        count: C, number of categoricals.
        classes: K, classes of each; Z is C*K.
    """

    def __init__(self, count: int, classes: int) -> None:
        self.size, self._classes = count * classes, classes

    def mean(self, raw: Tensor) -> Tensor:
        """Implements `Latents`: the softmax of each categorical, a share of it uniform."""
        return ((1 - UNIMIX) * self._each(raw.float()).softmax(-1) + UNIMIX / self._classes).flatten(-2)

    def draw(self, mean: Tensor) -> Tensor:
        """Implements `Latents`: one-hot vectors whose gradient is that of the probabilities (straight-through)."""
        race = self._each(mean) / torch.empty_like(self._each(mean)).exponential_()  # the largest wins as it should
        hard = torch.zeros_like(race).scatter(-1, race.argmax(-1, keepdim=True), 1.0).flatten(-2)
        return hard + mean - mean.detach()

    def kl(self, first: Tensor, second: Tensor) -> Tensor:
        """Implements `Latents`."""
        return (first * (first.log() - second.log())).sum(-1)

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Implements `Latents`: summed over classes, averaged over categoricals."""
        return (first - second).square().mean(-1) * self._classes

    def _each(self, latents: Tensor) -> Tensor:
        """``(..., C*K)`` to ``(..., C, K)``."""
        return latents.unflatten(-1, (-1, self._classes))


class Normals:
    """Normal latents, as in the first Dreamer (arXiv 1912.01603), all with the deviation `DEVIATION`.

    Args:
        size: Z.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def mean(self, raw: Tensor) -> Tensor:
        """Implements `Latents`."""
        return raw.float()

    def draw(self, mean: Tensor) -> Tensor:
        """Implements `Latents`."""
        return mean + DEVIATION * torch.randn_like(mean)

    def kl(self, first: Tensor, second: Tensor) -> Tensor:
        """Implements `Latents`."""
        return 0.5 * ((first - second) / DEVIATION).square().sum(-1)

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Implements `Latents`: averaged over Z."""
        return (first - second).square().mean(-1)
