"""Plans of different lengths in one call: padding, and computing with each plan as if it were alone.

Floating-point sums depend on the order of their terms, and that on the shape of a tensor. So whatever mixes the numbers
of a plan, or several candidates, is computed for the episodes of each horizon by themselves, without padding: a plan is
bit for bit the same whatever the horizons of the episodes beside it. What treats every number by itself needs no care.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from lwm_agent.protocols import Problem


def list_horizons(problem: Problem) -> Sequence[int]:
    """Number of blocks of each episode's plan."""
    return problem.horizons or [problem.init.shape[1]] * len(problem.init)


def zero_padding(blocks: Tensor, problem: Problem) -> Tensor:
    """`blocks` ``(B, ..., T, X)``, zero beyond each episode's horizon."""
    if problem.valid is None:
        return blocks
    valid = problem.valid.reshape(len(blocks), *(1,) * (blocks.dim() - 3), -1, 1)
    return torch.where(valid, blocks, 0)


def draw_episodes(
    problem: Problem, draw: Callable[[torch.Generator, int], Tensor], size: Sequence[int], dim: int
) -> Tensor:
    """Random numbers ``(B, *size)``: `draw` of each episode's generator and horizon, zero-padded in the axis `dim`.

    Those of an episode whose budget is exhausted are zeros: its generator stays as it would be if it were alone.
    """
    exhausted = [False] * len(problem.init) if problem.spending is None else problem.spending.exhausted
    drawn = [
        problem.init.new_zeros(size) if done else pad_end(draw(generator, horizon), dim, size[dim])
        for generator, horizon, done in zip(problem.generators, list_horizons(problem), exhausted, strict=True)
    ]
    return torch.stack(drawn)


def pad_end(numbers: Tensor, dim: int, length: int) -> Tensor:
    """`numbers`, followed by zeros up to a size of `length` in the negative dimension `dim`."""
    missing = length - numbers.shape[dim]
    return pad(numbers, (0, 0) * (-dim - 1) + (0, missing)) if missing else numbers


def by_horizon(problem: Problem, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Results of `function` of `tensors` ``(B, ..., T, X)``, without padding: for the episodes of each horizon in turn.

    Results ``(B, ..., T, X)`` of at least three axes are zero beyond each episode's horizon; those of fewer, such as
    ``(B, S)``, have no blocks.
    """
    groups = problem.equal_horizons
    if not groups:
        return function(*tensors)
    longest = problem.init.shape[1]
    results = [
        function(*(tensor[episodes][..., :horizon, :].contiguous() for tensor in tensors))
        for horizon, episodes in groups.items()
    ]
    order = torch.cat(list(groups.values())).argsort()
    return tuple(
        torch.cat([pad_end(part, -2, longest) if part.dim() > 2 else part for part in parts])[order]
        for parts in zip(*results, strict=True)
    )
