"""Paired tests and their correction, against numbers counted by hand."""

from __future__ import annotations

import pytest

from lwm_agent.errors import UserError
from lwm_agent.eval.statistics import holm, mcnemar, paired_test


def seed(solved: str) -> dict[int, bool]:
    return {index: letter == "1" for index, letter in enumerate(solved)}


def test_paired_test_of_one_seed_each_is_mcnemars() -> None:
    test = paired_test([seed("1111110")], [seed("0000011")])
    assert (test.only_a, test.only_b) == (5, 1)
    assert test.p_value == mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)


def test_a_task_counts_for_the_model_whose_seeds_solve_it_more_often() -> None:
    first = [seed("1110"), seed("1100"), seed("1000")]  # 3, 2, 1 and 0 of three seeds
    second = [seed("1010"), seed("1001")]  # 2, 0, 1 and 1 of two
    test = paired_test(first, second)
    assert (test.only_a, test.only_b) == (1, 2)  # 3/3 against 2/2 is a tie
    assert test.p_value == 1.0


def test_different_tasks_cannot_be_paired() -> None:
    with pytest.raises(UserError, match="different tasks"):
        paired_test([seed("10")], [seed("101")])


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # .01 * 3; .03 * 2; .04 * 1, not below the one before
        ([0.5, 0.02, 0.6], [1.0, 0.06, 1.0]),
        ([0.01, 0.01], [0.02, 0.02]),
    ],
)
def test_holm(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected)
