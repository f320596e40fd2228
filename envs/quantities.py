"""Physical quantities of states: what can be asked of a latent, in a unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One physical quantity of N states.

    Attributes:
        values: its numbers ``(N, n)``, in `unit`.
        unit: unit of the numbers and of their errors, such as "px", "cm" or "deg"; empty where it is unknown.
        period: size of the turn after which all looks alike, in `unit`, of angles; None of other numbers.
        is_place: whether the numbers are coordinates, so that their error is a distance; else it is their mean error.
        tolerance: error, in `unit`, up to which a thing counts as being where it should be; None where nobody asks.

    Raises:
        UserError: the numbers are not ``(N, n)``.
    """

    values: NDArray[np.float64]
    unit: str = ""
    period: float | None = None
    is_place: bool = False
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] < 1:
            raise UserError(f"values of a quantity must be (N, n), not {self.values.shape}")

    def rows(self, rows: NDArray[Any]) -> Quantity:
        """The quantity of some of the states."""
        return replace(self, values=self.values[rows])

    @property
    def targets(self) -> NDArray[np.float64]:
        """Numbers ``(N, m)`` to predict: sines, then cosines, of angles, which have no jump; else the values."""
        if self.period is None:
            return self.values
        turns = 2 * np.pi * self.values / self.period
        return np.concatenate([np.sin(turns), np.cos(turns)], axis=1)

    def read(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values ``(N, n)`` that predicted `targets` ``(N, m)`` stand for."""
        if self.period is None:
            return targets
        sines, cosines = np.split(targets, 2, axis=1)
        values: NDArray[np.float64] = np.arctan2(sines, cosines) * self.period / (2 * np.pi)
        return values

    def errors(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Errors ``(N,)`` of other `values` ``(N, n)``, in `unit`; of angles, the short way round."""
        difference = values - self.values
        if self.period is not None:
            difference = (difference + self.period / 2) % self.period - self.period / 2
        if self.is_place:
            return np.linalg.norm(difference, axis=1)
        mean: NDArray[np.float64] = np.abs(difference).mean(axis=1)
        return mean


def numbers_of(name: str, values: NDArray[np.float64]) -> dict[str, Quantity]:
    """A quantity for each column of `values` ``(N, n)``, of which nothing is known: ``name[0]``, ``name[1]``, ..."""
    return {f"{name}[{column}]": Quantity(values=values[:, [column]]) for column in range(values.shape[1])}
