"""Paired comparison of two policies on the same tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .results_file import parse_results
from .statistics import mcnemar


@dataclass(frozen=True)
class Comparison:
    """Two results on the same tasks.

    Attributes:
        n: tasks.
        success_a: success rate of the first.
        success_b: success rate of the second.
        only_a: tasks that only the first solved.
        only_b: tasks that only the second solved.
        p_value: two-sided exact McNemar test of equal success rates.
    """

    n: int
    success_a: float
    success_b: float
    only_a: int
    only_b: int
    p_value: float


def compare(first: str | Path, second: str | Path) -> Comparison:
    """Paired comparison of two ``results.json`` on the same tasks."""
    a, b = parse_results(first), parse_results(second)
    solved_a, solved_b = a.solved, b.solved
    if a.run["tasks"]["sha256"] != b.run["tasks"]["sha256"]:
        raise UserError(f"{first} and {second} come from different tasks: evaluate both on the same task file")
    if solved_a.keys() != solved_b.keys():
        raise UserError(f"{first} and {second} cover different tasks of their file: evaluate both on the same ones")
    only_a = sum(solved_a[index] and not solved_b[index] for index in solved_a)
    only_b = sum(solved_b[index] and not solved_a[index] for index in solved_a)
    n = len(solved_a)
    rate_a, rate_b = sum(solved_a.values()) / n, sum(solved_b.values()) / n
    return Comparison(n, rate_a, rate_b, only_a, only_b, mcnemar(only_a, only_b))
