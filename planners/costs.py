"""Planning costs: how the distances ``(B, S, T)`` of a rollout to its goal become one cost ``(B, S)`` a candidate."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Cost = Callable[[Tensor], Tensor]
"""Distances ``(B, S, T)``, after each action block, to costs ``(B, S)``."""


def terminal(distances: Tensor) -> Tensor:
    """Distance after the last block: be at the goal when the horizon ends."""
    return distances[..., -1]


def best_step(distances: Tensor) -> Tensor:
    """Smallest distance of the rollout: reach the goal at any time, as far as a goal may be reached early."""
    return distances.amin(dim=-1)


def running(distances: Tensor) -> Tensor:
    """Mean distance of the rollout: get to the goal early and stay."""
    return distances.mean(dim=-1)


COSTS: dict[str, Cost] = {"terminal": terminal, "best-step": best_step, "running": running}


def make_cost(name: str) -> Cost:
    """The planning cost called `name`.

    Raises:
        ValueError: unknown name.
    """
    if name not in COSTS:
        raise ValueError(f"unknown planning cost {name!r}, choose one of {sorted(COSTS)}")
    return COSTS[name]
