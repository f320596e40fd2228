"""Planners minimise a function of action sequences; they know no world model and no environment.

A new planner is a module with a subclass of `Planner`, and a line in `registry.py`. Importing this package does not
import torch: names are looked up when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .budget import UNLIMITED, Budget
from .registry import PLANNERS

if TYPE_CHECKING:
    from .base import plan
    from .best_proposal import BestProposal
    from .categorical_cem import CategoricalCEM
    from .cem import CEM, GuidedCEM
    from .chain import Chain
    from .costs import COSTS, make_cost
    from .factory import make_planner
    from .gradient import SGD, Gradient
    from .grasp import GRASP
    from .icem import ICEM
    from .lbfgs import LBFGS
    from .mppi import MPPI
    from .policy import LearnedPolicy
    from .predictive_sampling import PredictiveSampling
    from .random_shooting import RandomShooting

__all__ = [
    "CEM",
    "COSTS",
    "GRASP",
    "ICEM",
    "LBFGS",
    "MPPI",
    "PLANNERS",
    "SGD",
    "UNLIMITED",
    "BestProposal",
    "Budget",
    "CategoricalCEM",
    "Chain",
    "Gradient",
    "GuidedCEM",
    "LearnedPolicy",
    "PredictiveSampling",
    "RandomShooting",
    "make_cost",
    "make_planner",
    "plan",
]

_PLACES = {"COSTS": "costs", "Chain": "chain", "make_cost": "costs", "make_planner": "factory", "plan": "base"}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(f".{_PLACES[name]}", __name__), name)
    if name in __all__:  # the class of a planner
        return next(planner for planner in PLANNERS.values() if planner.__name__ == name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
