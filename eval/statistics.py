"""Tests of paired outcomes, and their correction for many comparisons: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError

Solved = Mapping[int, bool]
"""Whether each task was solved, by its index."""


@dataclass(frozen=True)
class Discordance:
    """Tasks that one of two policies solved more often than the other.

    Attributes:
        only_a: tasks that the first solved more often.
        only_b: tasks that the second solved more often.
        p_value: two-sided exact test of equal chances.
    """

    only_a: int
    only_b: int
    p_value: float


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of the exact McNemar test, from the numbers of tasks that one of two policies solved."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def paired_test(first: Sequence[Solved], second: Sequence[Solved]) -> Discordance:
    """Exact test of two policies on the same tasks, each played once for every training seed.

    With one seed each, it is McNemar's. With several, a task counts for the policy whose seeds solve a larger share of
    it, and tasks with equal shares count for neither (exact sign test): the tasks are independent, the seeds on a task
    are not.

    Raises:
        UserError: the policies, or their seeds, played different tasks.
    """
    tasks = first[0].keys()
    if any(seed.keys() != tasks for seed in (*first, *second)):
        raise UserError("the policies played different tasks: nothing can be paired")
    only_a = only_b = 0
    for task in tasks:
        # Whole numbers: shares with different denominators would differ by rounding.
        a = sum(seed[task] for seed in first) * len(second)
        b = sum(seed[task] for seed in second) * len(first)
        only_a, only_b = only_a + (a > b), only_b + (b > a)
    return Discordance(only_a, only_b, mcnemar(only_a, only_b))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by the step-down method (Holm, 1979), in the order of `p_values`."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
