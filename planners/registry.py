"""Names of all planners. This module does not import torch: a planner is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

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
