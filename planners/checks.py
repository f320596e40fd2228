"""How settings are checked: every planner, and the budget, is a frozen dataclass that refuses what makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from lwm_agent.errors import UserError, UserTypeError

# What planners call alike means the same and is checked alike.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_samples": (lambda value: value >= 1, "at least 1"),
    "iterations": (lambda value: value >= 1, "at least 1"),
    "noise_correlation": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "momentum": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "min_std": (lambda value: value >= 0, "at least 0"),
    "lr": (lambda value: value > 0, "positive"),
}


def check_settings(settings: Any) -> None:
    """Checks the types of all fields of a dataclass, and the values of those that `RULES` names.

    Raises:
        TypeError: a field is not of its annotated type.
        ValueError: a value is out of range.
    """
    check_types(settings)
    for item in fields(settings):
        if item.name in RULES:
            valid, rule = RULES[item.name]
            check_value(settings, item.name, valid(getattr(settings, item.name)), rule)


def check_elites(settings: Any) -> None:
    """Raises ValueError unless `num_elites` of `settings` can be chosen from its `num_samples`."""
    most = settings.num_samples
    check_value(settings, "num_elites", 1 <= settings.num_elites <= most, f"1 to num_samples = {most}")


def check_types(settings: Any) -> None:
    """Raises TypeError where a field of a dataclass is not of its annotated type; an int may stand for a float."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        check_type(type(settings).__name__, item.name, getattr(settings, item.name), hints[item.name])


def check_type(owner: str, name: str, value: Any, kind: Any) -> None:
    """Raises TypeError unless `value`, called `name` in the `owner`, is of the type or union `kind`."""
    parts = get_args(kind) or (kind,)
    accepted = (*parts, int) if float in parts else parts
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in parts):
        wanted = " | ".join("None" if part is type(None) else part.__name__ for part in parts)
        raise UserTypeError(f"{owner}: {name} must be {wanted}, got {value!r}")


def check_value(settings: Any, name: str, valid: bool, rule: str) -> None:
    """Raises ValueError that names the field, the rule that it breaks and its value, unless `valid`."""
    if not valid:
        raise UserError(f"{type(settings).__name__}: {name} must be {rule}, got {getattr(settings, name)!r}")
