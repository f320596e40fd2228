"""Detection of one kind of thing among another: areas under ROC curves, and a paired test, of plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Bootstrap, Interval

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class SignedRank:
    """Outcome of a paired test.

    Attributes:
        p_value: two-sided, of differences that are symmetric around zero.
        effect: matched-pairs rank-biserial correlation (Kerby, 2014): 1 if all differences are positive, -1 if none is.
    """

    p_value: float
    effect: float


def area_under_curve(
    events: Scores, controls: Scores, groups: NDArray[np.int64], seed: int = 0, resamples: int = 2000
) -> Interval:
    """Area under the ROC curve of `events` ``(n,)`` against `controls` ``(n,)``, with an interval by a bootstrap.

    The area is the chance that an event scores higher than a control; equal scores count half. Event and control of one
    place are a pair, and stay together. `groups` ``(n,)`` are the numbers of what is drawn, such as episodes: pairs of
    one episode are not independent.

    Raises:
        UserError: there are fewer than two groups.
    """
    higher = np.sign(events[:, None] - controls) / 2 + 0.5  # (n, n)
    weights = Bootstrap(groups, seed, resamples).weights
    areas = ((weights @ higher) * weights).sum(1) / weights.sum(1) ** 2
    low, high = np.quantile(areas[1:], [0.025, 0.975])
    return Interval(float(areas[0]), float(low), float(high))


def signed_rank(differences: Scores) -> SignedRank:
    """Wilcoxon's signed-rank test of paired `differences` ``(n,)``, by the normal approximation.

    Zeros are left out, and equal magnitudes share their ranks.
    """
    different = differences[differences != 0]
    if len(different) == 0:
        return SignedRank(1.0, 0.0)
    _, places, counts = np.unique(np.abs(different), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive, total, n = float(ranks[different > 0].sum()), float(ranks.sum()), len(different)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((counts**3 - counts).sum()) / 48
    z = (positive - total / 2) / math.sqrt(variance)
    return SignedRank(math.erfc(abs(z) / math.sqrt(2)), 2 * positive / total - 1)
