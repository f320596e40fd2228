"""The limits of what one plan may spend. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lwm_agent.validation import check_types

from .checks import check_value


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of one call of `plan`, in any of four units; None does not limit.

    With a limit, a planner goes on until the next iteration would exceed it, whatever its own `iterations`; of a chain,
    that is the last planner. Rollouts, iterations and FLOPs are counted for each episode: one whose limit is reached
    keeps its plan, whatever the others may still spend. Its candidates are still imagined beside those of the others,
    but neither used nor counted.

    Attributes:
        rollouts: candidate rollouts for each episode; one with a gradient counts twice.
        iterations: iterations of the planner.
        flops: floating-point operations for each episode, of its candidates and its proposals.
        seconds: wall time for the whole batch. The call of the model under way is completed; proposals and, without
            them, the first iteration are completed too, so that there is a plan.
    """

    rollouts: int | None = None
    iterations: int | None = None
    flops: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for item in fields(self):
            value = getattr(self, item.name)
            valid = value is None or 0 < value < float("inf")
            check_value(self, item.name, valid, "positive and finite, or None for no limit")


UNLIMITED = Budget()
