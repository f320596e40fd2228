"""Work on many rollouts, done in parts that memory has room for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_chunks(compute: Callable[..., tuple[Tensor, ...]], max_rollouts: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The results of `compute` for all episodes and candidates of `tensors` ``(B, S, ...)``, in float32.

    `compute` is called with a slice of episodes and the parts of `tensors` of these: whole episodes, as many as
    `max_rollouts` allows, or some candidates of one episode that is too large.
    """
    size = max(1, max_rollouts // tensors[0].shape[1])
    results = []
    for first in range(0, len(tensors[0]), size):
        episodes = slice(first, first + size)
        chunks = zip(*(tensor[episodes].split(max_rollouts, dim=1) for tensor in tensors), strict=True)
        parts = zip(*(compute(episodes, *chunk) for chunk in chunks), strict=True)
        results.append([torch.cat(part, dim=1).float() for part in parts])
    return tuple(torch.cat(part) for part in zip(*results, strict=True))
