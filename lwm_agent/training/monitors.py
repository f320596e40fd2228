"""Monitors of validation latents: signs of a collapse, and how much of the state can be read from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..eval.latent_geometry import effective_rank
from ..models.sigreg import sigreg


def collapse_monitors(latents: Tensor, num_directions: int = 256) -> dict[str, float]:
    """Effective rank, spread and SIGReg value of `latents` ``(N, D)``, of this process alone.

    Each process of a distributed run looks at the same validation clips, so nothing is exchanged between them.
    """
    latents = latents.float()
    std = latents.std(0)
    generator = torch.Generator().manual_seed(0)
    return {
        "effective_rank": effective_rank(latents),
        "std_min": float(std.min()),
        "std_mean": float(std.mean()),
        "sigreg": float(sigreg(latents, num_directions, generator, across_processes=False)),
    }


def collapse_warning(
    monitors: Mapping[str, float],
    latent_size: int,
    num_frames: int | None = None,
    remedy: str = "Raise model.sigreg_weight, or look for data that hardly varies",
) -> str | None:
    """Warning about latents that have these `monitors`, or None.

    Args:
        monitors: of `collapse_monitors`.
        latent_size: D.
        num_frames: different frames that the latents are of. Fewer than D span few dimensions even without a
            collapse: then the warning says that it cannot be judged.
        remedy: advice to the user whose latents collapse.
    """
    if not np.isfinite(list(monitors.values())).all():
        return "the latents are not finite: lower the learning rate"
    problem = None
    if monitors["effective_rank"] < max(2.0, 0.05 * latent_size):
        problem = f"their effective rank is {monitors['effective_rank']:.1f} of {latent_size}"
    elif monitors["std_mean"] < 0.1:
        problem = f"their mean standard deviation is {monitors['std_mean']:.3f}, not near 1"
    if problem is None:
        return None
    if num_frames is not None and num_frames < latent_size:
        return (
            f"the latents may be collapsing ({problem}), but {num_frames} validation frames are too few to judge "
            f"{latent_size} dimensions: collect more episodes, or hold out more of them (train.validation)"
        )
    return f"the latents are collapsing: {problem}. {remedy}"


def probe(
    latents: Tensor,
    state: NDArray[np.float64],
    targets: Mapping[str, tuple[int, ...]],
    episodes: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Held-out R2 of reading each of `targets`, columns of `state` ``(N, k)``, from `latents` ``(N, D)``.

    ``r2_NAME`` is that of a linear map, ``kernel_r2_NAME`` that of a smooth function (a Gaussian kernel as wide as the
    median distance): latents may well hold what a linear map does not find, such as the angle of a block. A target
    called "angle" is read out as sine and cosine.

    The rows of the first two thirds of the `episodes` ``(N,)`` fit, those of the others score: frames of one episode
    are too alike to score what was fitted on them. With fewer than two episodes, the first two thirds of the rows fit.
    """
    if not targets:
        return {}
    order, fit = _split_rows(len(latents), episodes)
    features = latents.double().cpu()[order]
    features = features / features.std().clamp_min(1e-12)
    distances = torch.cdist(features, features[:fit]).square()
    kernel = torch.exp(-distances / distances[:fit].median().clamp_min(1e-12))
    linear = 1.0 + features @ features[:fit].T
    columns = [_columns(state, name, where)[order] for name, where in targets.items()]
    together, widths = torch.cat(columns, dim=1), [target.shape[1] for target in columns]  # one solve for all targets
    r2 = {
        "r2": _ridge(linear, fit, together, 1e-3 * fit),
        "kernel_r2": _ridge(kernel, fit, together, 1e-3),
    }
    return {
        f"{kind}_{name}": float(part.mean())
        for kind, parts in r2.items()
        for name, part in zip(targets, parts.split(widths), strict=True)
    }


def _split_rows(rows: int, episodes: NDArray[np.int64] | None) -> tuple[Tensor, int]:
    """Order ``(N,)`` in which the rows that fit come first, and their number."""
    if episodes is None or len(np.unique(episodes)) < 2:
        return torch.arange(rows), 2 * rows // 3
    numbers, first_rows = np.unique(episodes, return_index=True)
    numbers = numbers[np.argsort(first_rows)]
    fitting = np.isin(episodes, numbers[: max(1, 2 * len(numbers) // 3)])
    order = np.concatenate([np.flatnonzero(fitting), np.flatnonzero(~fitting)])
    return torch.from_numpy(order), int(fitting.sum())


def _columns(state: NDArray[np.float64], name: str, where: tuple[int, ...]) -> Tensor:
    target = torch.from_numpy(state[:, list(where)])
    return torch.cat([target.sin(), target.cos()], dim=1) if name == "angle" else target


def _ridge(kernel: Tensor, fit: int, target: Tensor, penalty: float) -> Tensor:
    """R2 of each column of `target` on the rows after `fit`, by a kernel ridge regression from the rows before.

    `kernel` ``(N, fit)`` is that of all rows with the rows that fit.
    """
    mean = target[:fit].mean(0)
    regularised = kernel[:fit] + penalty * torch.eye(fit, dtype=kernel.dtype)
    weights = torch.linalg.solve(regularised, target[:fit] - mean)
    residual = (target[fit:] - mean - kernel[fit:] @ weights).square().sum(0)
    total = (target[fit:] - target[fit:].mean(0)).square().sum(0).clamp_min(1e-12)
    return 1 - residual / total
