"""benchmarks/expert.py: the expert's card."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from lwm_agent.envs.pusht_expert import ExpertPolicy
from lwm_agent.eval import make_env, shipped_tasks

from .benchmark_modules import load_benchmark


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
