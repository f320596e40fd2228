"""Planning costs: what makes an imagined rollout bad, one number ``(B, S)`` a candidate, and sums of such."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Cost = Callable[[Tensor, Tensor], Tensor]
"""Distances ``(B, S, T)`` to the goal after each action block, and the blocks ``(B, S, T, F*A)``: costs ``(B, S)``."""


def terminal(distances: Tensor, actions: Tensor) -> Tensor:
    """Distance after the last block: be at the goal when the horizon ends."""
    return distances[..., -1]


def best_step(distances: Tensor, actions: Tensor) -> Tensor:
    """Smallest distance of the rollout: reach the goal at any time, as far as a goal may be reached early."""
    return distances.amin(dim=-1)


def running(distances: Tensor, actions: Tensor) -> Tensor:
    """Mean distance of the rollout: get to the goal early and stay."""
    return distances.mean(dim=-1)


def control_penalty(distances: Tensor, actions: Tensor) -> Tensor:
    """Mean squared normalised action, whatever the horizon: stay near the mean action of the training data."""
    return actions.square().mean(dim=(-2, -1))


COSTS: dict[str, Cost] = {
    "terminal": terminal,
    "best-step": best_step,
    "running": running,
    "control-penalty": control_penalty,
}


@dataclass(frozen=True)
class WeightedSum:
    """A cost that adds up others, each with its weight."""

    terms: tuple[tuple[float, Cost], ...]

    def __call__(self, distances: Tensor, actions: Tensor) -> Tensor:
        """Costs ``(B, S)`` of rollouts at `distances` ``(B, S, T)`` by `actions` ``(B, S, T, F*A)``."""
        return torch.stack([weight * cost(distances, actions) for weight, cost in self.terms]).sum(dim=0)


def make_cost(text: str) -> Cost:
    """The planning cost that `text` describes: a name, or a weighted sum such as ``best-step+0.01*control-penalty``.

    Raises:
        ValueError: unknown name, or a weight that is not a positive number.
    """
    return WeightedSum(tuple(_parse_term(term) for term in text.split("+")))


def _parse_term(term: str) -> tuple[float, Cost]:
    weight, _, name = term.rpartition("*")
    if name not in COSTS:
        raise ValueError(
            f"unknown planning cost {name!r}, choose one of {sorted(COSTS)}, or a sum such as terminal+0.1*running"
        )
    try:
        factor = float(weight or 1)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise ValueError(f"the weight of {name!r} must be a positive number, got {weight!r}")
    return factor, COSTS[name]
