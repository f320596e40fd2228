"""Intervals of statistics of frames: episodes are drawn again and again, because frames of one episode are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

RESAMPLES = 500
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A statistic, and the bounds within which 95 % of the resamples lie."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Resamples of the episodes of N rows (Efron and Tibshirani, 1993, section 8).

    A resample is a weight for each row: how often its episode was drawn. A statistic is a function of all weights at
    once; the first row of them is the sample as it is.

    Args:
        episodes: number of each row's episode, ``(N,)``.
        seed: source of the draws.
        resamples: R, number of them.

    Raises:
        UserError: there are fewer than two episodes.
    """

    def __init__(self, episodes: NDArray[np.int64], seed: int = 0, resamples: int = RESAMPLES) -> None:
        numbers, self._places = np.unique(episodes, return_inverse=True)
        self.num_episodes = len(numbers)
        if self.num_episodes < 2:
            raise UserError(
                "intervals need at least two held-out episodes: raise --validation, or collect data that the model was "
                "not trained on, of whose episodes its training holds out a share of its own"
            )
        draws = np.random.default_rng(seed).multinomial(
            self.num_episodes, np.full(self.num_episodes, 1 / self.num_episodes), resamples
        )
        self._counts = np.concatenate([np.ones((1, self.num_episodes)), draws])

    def mean(self, values: Array) -> Interval:
        """Mean of `values` ``(N,)``."""
        weights = self.weights
        return _interval(weights @ values / weights.sum(axis=1))

    def quantile(self, values: Array, share: float) -> Interval:
        """Smallest of `values` ``(N,)`` that a `share` of them does not exceed."""
        order = np.argsort(values)
        reached = np.cumsum(self.weights[:, order], axis=1)
        return _interval(values[order][(reached < share * reached[:, -1:] - 1e-9).sum(axis=1)])

    def r2(self, predicted: Array, true: Array) -> Interval:
        """Coefficient of determination: mean of those of the columns ``(N, m)``."""
        weights = self.weights
        total = weights.sum(axis=1, keepdims=True)
        variation = weights @ true**2 - (weights @ true) ** 2 / total
        with np.errstate(divide="ignore", invalid="ignore"):
            return _interval((1 - weights @ (predicted - true) ** 2 / variation).mean(axis=1))

    def pearson(self, predicted: Array, true: Array) -> Interval:
        """Correlation: mean of those of the columns ``(N, m)``; 0 where nothing but a constant is predicted."""
        predicted, true = predicted - predicted.mean(axis=0), true - true.mean(axis=0)  # for rounding
        weights = self.weights
        total = weights.sum(axis=1, keepdims=True)

        def covariance(first: Array, second: Array) -> Array:
            return weights @ (first * second) - (weights @ first) * (weights @ second) / total

        scale = np.sqrt(np.maximum(covariance(predicted, predicted) * covariance(true, true), 1e-24))
        return _interval((covariance(predicted, true) / scale).mean(axis=1))

    @property
    def weights(self) -> Array:
        """Number of times that each row is in each resample, ``(1 + R, N)``."""
        return self._counts[:, self._places]


def _interval(statistics: Array) -> Interval:
    """Interval of statistics ``(1 + R,)``, without those of resamples in which nothing varies.

    Numbers have five digits, which is more than any interval allows, so that a table is that of its file.
    """
    low, high = np.quantile(statistics[1:][np.isfinite(statistics[1:])], [0.025, 0.975])
    return Interval(*(float(f"{number:.5g}") for number in (statistics[0], low, high)))
