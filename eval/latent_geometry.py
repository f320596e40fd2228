"""Shape of the space that latents fill: how many directions they use, and how straight their ways are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def effective_rank(latents: Tensor) -> float:
    """Effective rank of `latents` ``(N, D)``: D for an isotropic Gaussian, 1 for a line.

    It is the exponential of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli, 2007).
    """
    eigenvalues = torch.linalg.eigvalsh(torch.cov(latents.float().T)).clamp_min(0)
    shares = eigenvalues / eigenvalues.sum().clamp_min(1e-12)
    return float(torch.exp(torch.special.entr(shares).sum()))


def straightness(latents: Tensor) -> NDArray[np.float64]:
    """Mean cosine ``(B,)`` between a latent's change and the one after it, along B ways ``(B, L, D)`` of L > 2 frames.

    1 for a straight line, 0 for a random walk, below 0 for one that turns back (arXiv 2603.19312). Where a
    latent does not change at all, the cosine counts as 0.
    """
    change = latents.cpu().float().diff(dim=1)
    return torch.cosine_similarity(change[:, :-1], change[:, 1:], dim=-1).mean(dim=1).double().numpy()
