"""benchmarks/expert.py: the expert's card."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lwm_agent.envs.pusht_expert import SHAKEN, ExpertPolicy
from lwm_agent.eval import make_env, shipped_tasks
from lwm_agent.eval.results import wilson

from .benchmark_modules import load_benchmark

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("expert")


@pytest.mark.parametrize("shaken", [0.0, 0.15])
def test_solves_a_task_with_noise_and_without(benchmark: ModuleType, shaken: float) -> None:
    task_set = shipped_tasks("pusht", split="val")
    with make_env(task_set) as env:
        expert = ExpertPolicy(np.random.default_rng(0))
        steps = benchmark.play(env, task_set.tasks[0], expert, shaken, 50)
    assert steps is not None
    assert 1 < steps <= 50


def test_a_task_without_time_is_not_solved(benchmark: ModuleType) -> None:
    task_set = shipped_tasks("pusht", split="val")
    with make_env(task_set) as env:
        assert benchmark.play(env, task_set.tasks[0], ExpertPolicy(np.random.default_rng(0)), 0.0, 2) is None


def test_the_card_is_whole_and_the_page_has_its_numbers(benchmark: ModuleType) -> None:
    scores = json.loads((DOCS / "expert.json").read_text())["scores"]
    assert [(score["offset_env_steps"], score["shaken"]) for score in scores] == [
        (offset, shaken) for offset in benchmark.OFFSETS for shaken in (SHAKEN, 0.0)
    ]
    page = (DOCS / "pusht.md").read_text()
    for noisy, steady in zip(scores[::2], scores[1::2], strict=True):
        cells = [str(noisy["offset_env_steps"])]
        for score in (noisy, steady):
            assert (score["low"], score["high"]) == wilson(score["solved"], score["n"])
            interval = f"{100 * score['low']:.0f}-{100 * score['high']:.0f}"
            cells += [f"{score['solved']} of {score['n']} ({interval})", f"{score['median_env_steps']:g}"]
        assert f"| {' | '.join(cells)} |" in page
