"""SIGReg: pushes latents towards an isotropic Gaussian, so that a JEPA without a teacher does not collapse."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor

NULL_VALUE = 1.0594
"""Mean of `epps_pulley` for a standard normal sample: (1 - exp(-t^2)) exp(-t^2 / 2) integrated over [-3, 3]."""


def epps_pulley(samples: Tensor, num_knots: int = 17, limit: float = 3.0, across_processes: bool = True) -> Tensor:
    """Epps-Pulley statistic of each column of `samples` ``(..., N, M)`` against the standard normal, ``(..., M)``.

    N times the squared distance between the empirical and the normal characteristic function, weighted by exp(-t^2 / 2)
    and integrated over [-limit, limit] by the trapezoid rule on `num_knots` knots of its symmetric half. In a
    distributed run, unless `across_processes` is False, the characteristic functions are averaged over processes
    first, so that every process sees the statistic of the whole batch; `samples` are then where the process group
    can reduce them.

    Source: LeJEPA (arXiv 2511.08544) and LeWorldModel (arXiv 2603.19312), section 3.2.
    """
    knots = torch.linspace(0.0, limit, num_knots, dtype=torch.float32, device=samples.device)
    normal = torch.exp(-0.5 * knots.square())
    weights = torch.full_like(knots, 2.0 * limit / (num_knots - 1))
    weights[[0, -1]] /= 2.0
    angles = samples.float().unsqueeze(-1) * knots  # (..., N, M, knots)
    real, imaginary = angles.cos().mean(-3), angles.sin().mean(-3)
    count = samples.shape[-2]
    if across_processes and dist.is_available() and dist.is_initialized():
        processes = dist.get_world_size()
        real, imaginary = (dist_nn.all_reduce(part) / processes for part in (real, imaginary))
        count *= processes
    return ((real - normal).square() + imaginary.square()) @ (weights * normal) * count


def sigreg(
    latents: Tensor, num_directions: int, generator: torch.Generator | None = None, across_processes: bool = True
) -> Tensor:
    """Mean Epps-Pulley statistic of `latents` ``(..., N, D)`` along random unit directions, a scalar.

    Args:
        latents: N samples for each leading index (a time step, say); each is tested on its own.
        num_directions: how many directions are drawn; the paper uses 1024 and finds 64 to be enough.
        generator: source of the directions, on the CPU; processes that train together must draw the same ones.
        across_processes: whether N counts the samples of all processes of a distributed run.
    """
    size = latents.shape[-1], num_directions
    directions = torch.randn(size, generator=generator, dtype=torch.float32).to(latents.device)
    directions = directions / directions.norm(dim=0)
    with torch.autocast(latents.device.type, enabled=False):
        return epps_pulley(latents.float() @ directions, across_processes=across_processes).mean()
