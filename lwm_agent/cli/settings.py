"""``--set group.name=value`` on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import UserError
from ..validation import parse_value


def parse_settings(assignments: Iterable[str], groups: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Assignments such as ``planner.num_samples=128`` as ``{"planner": {"num_samples": 128}}``.

    Values are read as JSON where they are JSON (numbers, true, null, lists), as text otherwise. Every one of `groups`
    is in the result; whether a name exists in its group is checked by the receiver of the group.

    Raises:
        UserError: an assignment without ``group.name=`` or without a value, of another group, or of a number that is
            not finite.
    """
    settings: dict[str, dict[str, Any]] = {group: {} for group in groups}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        group, dot, name = key.partition(".")
        if not (equals and dot and name) or group not in groups:
            choices = ", ".join(f"{choice}.NAME=VALUE" for choice in groups)
            raise UserError(f"--set {assignment!r} is not understood: write {choices}")
        settings[group][name] = parse_value(f"--set {key}", text)
    return settings
