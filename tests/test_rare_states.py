"""benchmarks/rare_states.py: what is rare, and which states are of a kind."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from lwm_agent.envs.pusht import PushTEnv

from .benchmark_modules import load_benchmark


@pytest.fixture(scope="module")
def rare() -> ModuleType:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'lwm-agent[plot]'")
    return load_benchmark("rare_states")


def test_rarity_is_the_distance_to_the_tenth_neighbour_in_deviations(rare: ModuleType) -> None:
    rng = np.random.default_rng(0)
    others = rng.normal(size=(700, 3)) * [1.0, 10.0, 0.1]
    states = np.concatenate([others[:600], [[9.0, 0.0, 0.0]]])  # more than one part of the computation
    rarity = rare.rarity_of(states, others)
    scaled = (others - others.mean(0)) / others.std(0)
    expected = np.sort(np.linalg.norm(scaled - scaled[7], axis=1))[rare.NEIGHBOUR - 1]
    assert rarity[7] == pytest.approx(expected, rel=1e-3)
    assert rarity.argmax() == 600


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("block at a wall", (250, 100, 60, 256, 0.3)),
        ("block in a corner", (250, 250, 60, 60, 0.3)),
        ("upside down", (100, 100, 256, 256, math.pi + 0.2)),
        ("agent in the notch", (256 + 35, 200 + 55, 256, 200, 0.0)),
        ("agent in the notch", (256 - 55, 200 + 35, 256, 200, math.pi / 2)),  # a quarter turn later
    ],
)
def test_states_are_of_their_kind(rare: ModuleType, kind: str, state: tuple[float, ...]) -> None:
    usual = (100, 100, 256, 256, 0.0)
    states = np.array([(*each, 0.0, 0.0) for each in (state, usual)])
    quantities = PushTEnv(image_size=16).quantities(states)
    assert rare.KINDS["pusht"][kind](quantities).tolist() == [True, False]
