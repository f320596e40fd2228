"""benchmarks/color_contrast.py: how well the colours of a task can be told apart."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from lwm_agent.envs.shifts import shifted
from lwm_agent.eval import make_env, shipped_tasks
from lwm_agent.eval.episode import Run
from lwm_agent.eval.results_file import parse_results

from .benchmark_modules import load_benchmark
from .commands import run


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("color_contrast")


def test_contrast_is_of_the_two_least_different_colours(benchmark: ModuleType) -> None:
    assert benchmark.contrast([(0, 0, 0), (30, 0, 0), (255, 255, 255)]) == 10
    assert benchmark.contrast([(0, 0, 0), (0, 0, 0), (255, 255, 255)]) == 0


def test_colours_are_those_that_the_evaluation_drew(benchmark: ModuleType) -> None:
    task_set, shifts = shipped_tasks("pusht"), ["background-color=1"]
    env = shifted(make_env(task_set), shifts, "pusht")
    expected = []
    for index in (0, 3):
        Run(index, env, None).reset(task_set, 7)
        simulator = env.unwrapped
        expected.append(benchmark.contrast([simulator.variation[name] for name in benchmark.COLORS]))
    found = benchmark.contrasts(task_set, [0, 3], shifts, 7)
    assert found.tolist() == expected
    assert found[0] != found[1]


def test_quarters_count_what_was_solved(benchmark: ModuleType, tmp_path: Path) -> None:
    shifts = [f"{name.replace('_', '-')}=1" for name in benchmark.COLORS]
    run(
        f"robustness --env pusht --checkpoint pusht-gcbc --planner policy --shift {' '.join(shifts)} --episodes 10 "
        "--device cpu --output-dir out",
        tmp_path,
    )
    benchmark.main(tmp_path / "out", tmp_path / "contrast.json")
    table = json.loads((tmp_path / "contrast.json").read_text())["quarters"]
    assert table.keys() == set(shifts)
    for shift, rows in table.items():
        evaluated = parse_results(tmp_path / "out" / "evaluations" / shift / "results.json")
        assert [row["n"] for row in rows] == [3, 3, 2, 2]
        assert sum(row["solved"] for row in rows) == sum(evaluated.solved.values())
        bounds = [row["most_contrast"] for row in rows]
        assert bounds == sorted(bounds)
