"""Planners minimise a function of action sequences; they know no world model and no environment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lwm_agent.protocols import Planner

from .base import Budget, plan
from .cem import CEM
from .costs import COSTS, make_cost
from .gradient import Gradient
from .random_shooting import RandomShooting

__all__ = ["CEM", "COSTS", "PLANNERS", "Budget", "Gradient", "RandomShooting", "make_cost", "make_planner", "plan"]

PLANNERS: dict[str, type[Any]] = {"cem": CEM, "gradient": Gradient, "random-shooting": RandomShooting}


def make_planner(name: str, **settings: Any) -> Planner:
    """The planner called `name`, with the given settings and the defaults of its class for the others.

    Raises:
        ValueError: unknown name, unknown setting, or a value out of range.
        TypeError: a value of the wrong type.
    """
    if name not in PLANNERS:
        raise ValueError(f"unknown planner {name!r}, choose one of {sorted(PLANNERS)}")
    known = [item.name for item in fields(PLANNERS[name])]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"unknown settings {unknown} of planner {name!r}, which takes {known}")
    planner: Planner = PLANNERS[name](**settings)
    return planner
