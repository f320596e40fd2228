"""Names of all planners. This module does not import torch: a planner is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from lwm_agent.errors import UserError
from lwm_agent.imports import import_named

if TYPE_CHECKING:
    from lwm_agent.protocols import Planner


class PlannerRegistry(Mapping[str, "type[Planner]"]):
    """Planner classes by name, each imported when it is looked up.

    Args:
        places: ``module:Class`` of each planner, of modules in this folder.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> type[Planner]:
        module, _, planner = self._places[name].partition(":")
        found: type[Planner] = getattr(import_module(f".{module}", __package__), planner)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


PLANNERS = PlannerRegistry(
    {
        "actor": "best_proposal:BestProposal",
        "categorical-cem": "categorical_cem:CategoricalCEM",
        "cem": "cem:CEM",
        "gradient": "gradient:Gradient",
        "grasp": "grasp:GRASP",
        "guided": "cem:GuidedCEM",
        "icem": "icem:ICEM",
        "lbfgs": "lbfgs:LBFGS",
        "mppi": "mppi:MPPI",
        "policy": "policy:LearnedPolicy",
        "predictive-sampling": "predictive_sampling:PredictiveSampling",
        "random-shooting": "random_shooting:RandomShooting",
        "sgd": "gradient:SGD",
    }
)


def find_planner(name: str) -> type[Planner]:
    """The planner that a user asks for: a name of `PLANNERS`, or ``module:Class`` of a class of their own.

    Raises:
        UserError: there is none, or it is no class derived from `Planner`.
    """
    from lwm_agent.protocols import Planner  # torch

    if name in PLANNERS:
        return PLANNERS[name]
    if ":" not in name:
        raise UserError(
            f"planner={name!r} is unknown: choose one of {', '.join(PLANNERS)}, two joined by a plus (cem+gradient), "
            "or MODULE:CLASS of one of your own"
        )
    module, _, kind = name.rpartition(":")
    planner = getattr(import_named(module, f"planner={name!r}"), kind, None)
    if not (isinstance(planner, type) and issubclass(planner, Planner)):
        raise UserError(f"planner={name!r} is no class derived from lwm_agent.protocols.Planner")
    return planner
