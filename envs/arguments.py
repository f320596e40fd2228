"""Checks of constructor arguments: each refuses a bad value by name, with the choices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UserError


def check_size(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of pixels from `low` to `high`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UserError(f"{name}={value!r} must be a whole number from {low} to {high}")
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range: choose one from {low} to {high}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """True or False; a text such as "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name}={value!r} must be True or False")
    return bool(value)
