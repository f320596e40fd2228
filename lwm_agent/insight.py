"""What an agent lets people see of its mind: the type that the agent, films and windows exchange. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PlanInsight:
    """A plan that was made.

    Attributes:
        cost: its planning cost.
        ms: milliseconds of the planning call, divided by the episodes planned in it.
        env_actions: environment actions ``(T, F, A)``, ``(T, F)`` where they are discrete, block by block.
        pictures: what the model imagines after each block, ``(T, h, w, 3)``; None where nothing is imagined or painted.
        search: candidates ``(S, T, F, A)`` that the search tried, call by call, the cheapest first; proposals come
            before the planner's own.
    """

    cost: float
    ms: float
    env_actions: NDArray[Any]
    pictures: NDArray[np.uint8] | None = None
    search: tuple[NDArray[Any], ...] = ()


@dataclass(frozen=True)
class Insight:
    """What one call of a policy tells about one episode.

    Attributes:
        distance: latent distance of the newest frame from the goal, as plans measure it; None where the agent did not
            look in this call, or its model measures none.
        surprise: error of the prediction of the newest frame, in units of the error that is usual; None where that is
            not known.
        plan: the plan made in this call; None where an earlier one goes on.
    """

    distance: float | None = None
    surprise: float | None = None
    plan: PlanInsight | None = None
