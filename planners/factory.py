"""Planners by name, with their settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from lwm_agent.errors import UserError
from lwm_agent.protocols import Planner

from .chain import Chain
from .registry import find_planner


def make_planner(name: str, **settings: Any) -> Planner:
    """The planner called `name`, with the given settings and the defaults of its class for the others.

    Two names joined by a plus, ``cem+gradient``, are a `Chain` of both. Its parts are set by ``first.num_samples`` or
    ``second.lr``; as the second may again be a chain, so may ``second.first.lr``.

    ``module:Class`` is a class of your own.

    Raises:
        ValueError: unknown name, unknown setting, or a value out of range.
        TypeError: a value of the wrong type.
    """
    first, plus, second = name.partition("+")
    if plus:
        return _make_chain(first, second, settings)
    kind: Any = find_planner(name)  # a dataclass, whose fields are its settings
    _refuse_unknown(name, settings, [item.name for item in fields(kind)])
    planner: Planner = kind(**settings)
    return planner


def _make_chain(first: str, second: str, settings: dict[str, Any]) -> Chain:
    parts = ("first.", "second.")
    of_parts = [
        {key.removeprefix(part): value for key, value in settings.items() if key.startswith(part)} for part in parts
    ]
    own = {key: value for key, value in settings.items() if not key.startswith(parts)}
    _refuse_unknown(f"{first}+{second}", own, ["spread", "first.NAME", "second.NAME"])
    return Chain(first=make_planner(first, **of_parts[0]), second=make_planner(second, **of_parts[1]), **own)


def _refuse_unknown(planner: str, names: Iterable[str], known: list[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(f"unknown settings {unknown} of planner {planner!r}, which takes {known or 'none'}")
