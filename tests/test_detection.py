"""Areas under ROC curves and the signed-rank test, against numbers counted by hand and those of SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_agent.eval.detection import area_under_curve, signed_rank


def test_area_counts_pairs_and_halves_of_ties() -> None:
    area = area_under_curve(np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0, 2.5]), np.arange(3))
    assert area.value == pytest.approx((3 + 1.5 + 2) / 9)  # 3 beats all; 1 ties with 1 and beats 0; 2 beats two
    assert area.low <= area.value <= area.high


def test_area_of_separated_scores_is_one_and_has_no_spread() -> None:
    area = area_under_curve(np.arange(10.0) + 100, np.arange(10.0), np.arange(10))
    assert (area.value, area.low, area.high) == (1.0, 1.0, 1.0)


def test_interval_knows_that_clips_of_an_episode_are_no_independent_proofs() -> None:
    rng = np.random.default_rng(0)
    few, other = rng.normal(0.7, 1, 20), rng.normal(0, 1, 20)
    alone = area_under_curve(few, other, np.arange(20))
    copies = [np.repeat(scores, 10) for scores in (few, other)]
    together = area_under_curve(*copies, np.repeat(np.arange(20), 10))
    blind = area_under_curve(*copies, np.arange(200))
    assert together.value == pytest.approx(alone.value)
    assert together.high - together.low == pytest.approx(alone.high - alone.low)
    assert blind.high - blind.low < 0.5 * (together.high - together.low)


def test_interval_covers_the_true_area_about_as_often_as_it_says() -> None:
    rng, truth = np.random.default_rng(1), 0.7602  # of normals one deviation apart
    areas = [area_under_curve(rng.normal(1, 1, 60), rng.normal(0, 1, 60), np.arange(60), i, 400) for i in range(200)]
    assert 0.89 < np.mean([area.low <= truth <= area.high for area in areas]) < 0.99


def test_signed_rank_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = np.round(np.random.default_rng(2).normal(0.3, 1, 80), 1)  # with ties and zeros
    expected = stats.wilcoxon(differences, zero_method="wilcox", correction=False, method="asymptotic")
    assert signed_rank(differences).p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_effect_is_the_balance_of_ranks() -> None:
    assert signed_rank(np.array([1.0, 2.0, 3.0, 0.0])).effect == 1.0
    assert signed_rank(np.array([-1.0, 2.0, 3.0])).effect == pytest.approx((5 - 1) / 6)
    assert signed_rank(np.zeros(3)).p_value == 1.0
