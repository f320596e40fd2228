"""What the latents of validation frames say about collapse, and what a linear map can read from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.sigreg import sigreg


def collapse_monitors(latents: Tensor, num_directions: int = 256) -> dict[str, float]:
    """Effective rank, spread and SIGReg value of `latents` ``(N, D)``.

    The effective rank (Roy and Vetterli, 2007) is the exponential of the entropy of the covariance's normalised
    eigenvalues: D for an isotropic Gaussian, 1 for a line.
    """
    latents = latents.float()
    std = latents.std(0)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(latents.T)).clamp_min(0)
    shares = eigenvalues / eigenvalues.sum().clamp_min(1e-12)
    generator = torch.Generator().manual_seed(0)
    return {
        "effective_rank": float(torch.exp(torch.special.entr(shares).sum())),
        "std_min": float(std.min()),
        "std_mean": float(std.mean()),
        "sigreg": float(sigreg(latents, num_directions, generator)),
    }


def collapse_warning(monitors: Mapping[str, float], latent_size: int) -> str | None:
    """What is wrong with latents that have these `monitors`, if anything is."""
    if not np.isfinite(list(monitors.values())).all():
        return "the latents are not finite: lower the learning rate"
    if monitors["effective_rank"] < max(2.0, 0.05 * latent_size):
        return (
            f"the latents are collapsing: their effective rank is {monitors['effective_rank']:.1f} of {latent_size}. "
            "Raise model.sigreg_weight, or look for data that hardly varies"
        )
    if monitors["std_mean"] < 0.1:
        return (
            f"the latents are collapsing: their mean standard deviation is {monitors['std_mean']:.3f}, not near 1. "
            "Raise model.sigreg_weight"
        )
    return None


def probe(latents: Tensor, state: NDArray[np.float64], targets: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Held-out R2 of reading each of `targets`, columns of `state` ``(N, k)``, from `latents` ``(N, D)``.

    ``r2_NAME`` is that of a linear map, ``kernel_r2_NAME`` that of a smooth function (a Gaussian kernel as wide as the
    median distance). A latent may well know what a linear map does not find in it: the angle of a block, above all.
    The first two thirds of the rows fit, the last third scores. A target called "angle" is read out as sine and cosine.
    """
    if not targets:
        return {}
    features = latents.double().cpu()
    features = features / features.std().clamp_min(1e-12)
    fit = 2 * len(features) // 3
    distances = torch.cdist(features, features[:fit]).square()
    kernel = torch.exp(-distances / distances[:fit].median().clamp_min(1e-12))
    linear = 1.0 + features @ features[:fit].T
    columns = [_columns(state, name, where) for name, where in targets.items()]
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
