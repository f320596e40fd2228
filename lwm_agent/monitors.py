"""What the latents of validation frames say about collapse, and what a linear map can read from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .models.sigreg import sigreg


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


def linear_probes(
    latents: Tensor, state: NDArray[np.float64], probes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Held-out R2 of a ridge regression from `latents` ``(N, D)`` to the `probes` columns of `state` ``(N, k)``.

    The first two thirds of the rows fit the map, the last third scores it. A probe called "angle" is read out as sine
    and cosine.
    """
    features = latents.double().cpu()
    features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    fit = 2 * len(features) // 3
    gram = features[:fit].T @ features[:fit] + 1e-3 * fit * torch.eye(features.shape[1], dtype=torch.float64)
    scores = {}
    for name, columns in probes.items():
        target = torch.from_numpy(state[:, list(columns)])
        if name == "angle":
            target = torch.cat([target.sin(), target.cos()], dim=1)
        weights = torch.linalg.solve(gram, features[:fit].T @ target[:fit])
        residual = (target[fit:] - features[fit:] @ weights).square().sum(0)
        total = (target[fit:] - target[fit:].mean(0)).square().sum(0).clamp_min(1e-12)
        scores[f"r2_{name}"] = float((1 - residual / total).mean())
    return scores
