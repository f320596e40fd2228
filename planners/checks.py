"""Checks of settings: every planner, and the budget, is a frozen dataclass that refuses values out of range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from math import isfinite
from typing import Any

from lwm_agent.errors import UserError
from lwm_agent.validation import check_types

# A setting of the same name means the same in all planners, and is checked alike.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_samples": (lambda value: value >= 1, "at least 1"),
    "iterations": (lambda value: value >= 1, "at least 1"),
    "noise_correlation": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "momentum": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "min_std": (lambda value: value >= 0, "at least 0"),
    "lr": (lambda value: value > 0, "positive"),
    "proposals": (lambda value: value in ("best", "all"), "'best' or 'all'"),
}


def check_settings(settings: Any) -> None:
    """Checks the types of all fields of a dataclass, and the values of those that `RULES` names.

    Raises:
        TypeError: a field is not of its annotated type.
        ValueError: a value is out of range.
    """
    check_types(settings)
    for item in fields(settings):
        value = getattr(settings, item.name)
        check_value(settings, item.name, not isinstance(value, float) or isfinite(value), "finite")
        if item.name in RULES:
            valid, rule = RULES[item.name]
            check_value(settings, item.name, valid(value), rule)


def check_elites(settings: Any) -> None:
    """Raises ValueError unless `num_elites` of `settings` can be chosen from its `num_samples`."""
    most = settings.num_samples
    check_value(settings, "num_elites", 1 <= settings.num_elites <= most, f"1 to num_samples = {most}")


def check_value(settings: Any, name: str, valid: bool, rule: str) -> None:
    """Raises ValueError that names the field, the rule that it breaks and its value, unless `valid`."""
    if not valid:
        raise UserError(f"{type(settings).__name__}: {name} must be {rule}, got {getattr(settings, name)!r}")
