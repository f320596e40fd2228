"""Factors of variation: colours, sizes, shapes and light of an environment that may differ between episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError
from ..validation import check_choice

Color = tuple[int, int, int]
"""Red, green and blue, each from 0 to 255."""
Value = Color | float | str
Strength = float | str
"""Difference of a factor from the usual: a number, or the word itself where the factor is one of several words."""


class Factor(ABC):
    """One thing of an environment's world that may differ.

    Attributes:
        usual: its value unless another one is asked for.
        strengths: strengths that a study of robustness tries, from the weakest to the strongest.
        unit: what a strength counts, in words.
    """

    usual: Value
    strengths: tuple[Strength, ...]
    unit: str

    @property
    @abstractmethod
    def most_strength(self) -> float | None:
        """Largest strength; None where strengths are words."""

    @abstractmethod
    def checked(self, name: str, value: Any) -> Value:
        """`value` in its type; raises `UserError` with the choices if the factor, called `name`, cannot have it."""

    @abstractmethod
    def drawn(self, strength: Strength, rng: np.random.Generator) -> Value:
        """A value that differs from the usual by `strength`, in a direction that is drawn."""


@dataclass(frozen=True, kw_only=True)
class ColorFactor(Factor):
    """A colour. Strength: the share of a random colour that is mixed in, up to 1."""

    usual: Color
    strengths: tuple[Strength, ...] = (0.25, 0.5, 1.0)
    unit: str = "share of another colour"

    @property
    def most_strength(self) -> float:
        return 1.0

    def checked(self, name: str, value: Any) -> Color:
        numbers = value if isinstance(value, tuple | list | np.ndarray) else ()
        whole = [isinstance(part, int | np.integer) and not isinstance(part, bool) for part in numbers]
        if len(whole) != 3 or not all(whole) or not all(0 <= part <= 255 for part in numbers):
            raise UserError(f"{name}={value!r} must be red, green and blue, three whole numbers from 0 to 255")
        red, green, blue = map(int, numbers)
        return red, green, blue

    def drawn(self, strength: Strength, rng: np.random.Generator) -> Color:
        share = _share(strength, self.most_strength)
        mixed = (1 - share) * np.array(self.usual) + share * rng.integers(0, 256, 3)
        red, green, blue = np.rint(mixed).astype(int).tolist()
        return red, green, blue


@dataclass(frozen=True, kw_only=True)
class ScaleFactor(Factor):
    """A positive number that something is multiplied by. Strength: what is added to 1, or taken from it.

    Attributes:
        least: smallest value.
        most: largest value.
    """

    least: float
    most: float
    usual: float = 1.0
    strengths: tuple[Strength, ...] = (0.1, 0.25, 0.5)
    unit: str = "more or less, as a share"

    @property
    def most_strength(self) -> float:
        return max(self.most - 1, 1 - self.least)

    def checked(self, name: str, value: Any) -> float:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not self.least <= value <= self.most:
            raise UserError(f"{name}={value!r} must be a number from {self.least:g} to {self.most:g}")
        return float(value)

    def drawn(self, strength: Strength, rng: np.random.Generator) -> float:
        share = _share(strength, self.most_strength)
        return float(np.clip(1 + share * rng.choice((-1.0, 1.0)), self.least, self.most))


@dataclass(frozen=True, kw_only=True)
class WordFactor(Factor):
    """One of several words. Strength: the word."""

    usual: str
    words: tuple[str, ...]
    unit: str = ""
    strengths: tuple[Strength, ...] = field(init=False)

    @property
    def most_strength(self) -> None:
        return None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", tuple(word for word in self.words if word != self.usual))

    def checked(self, name: str, value: Any) -> str:
        return check_choice(name, value, self.words)

    def drawn(self, strength: Strength, rng: np.random.Generator) -> str:
        return self.checked("strength", strength)


def checked_variation(variation: Any, factors: Mapping[str, Factor]) -> dict[str, Value]:
    """A value for each of `factors`: those of `variation`, and the usual one of the others.

    Raises:
        UserError: `variation` names no factor of these, or a value that the factor cannot have.
    """
    if not isinstance(variation, Mapping):
        raise UserError(f"options['variation'] must be a dictionary, not {variation!r}")
    unknown = sorted(map(str, variation.keys() - factors.keys()))
    if unknown:
        choices = f"choose from {', '.join(factors)}" if factors else "this environment has none"
        raise UserError(f"options['variation'] has an unknown factor {unknown[0]!r}: {choices}")
    return {
        name: factor.checked(f"variation {name}", variation[name]) if name in variation else factor.usual
        for name, factor in factors.items()
    }


def in_words(strength: Strength) -> str:
    """Text of a strength, as commands take it."""
    return strength if isinstance(strength, str) else f"{strength:g}"


def _share(strength: Strength, most: float) -> float:
    if isinstance(strength, str) or not 0 <= strength <= most:
        raise UserError(f"strength {strength!r} must be a number from 0 to {most:g}")
    return strength
