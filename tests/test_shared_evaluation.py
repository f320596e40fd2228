"""Evaluations that several processes share: the results of one process, resumed and refused as with one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lwm_agent.errors import FileError, MachineError, UserError
from lwm_agent.eval import Episode, make_tasks
from lwm_agent.experiments.child import share_out
from lwm_agent.experiments.config import EvalConfig
from lwm_agent.experiments.evaluate import Report, _shared, run_evaluation
from lwm_agent.experiments.policies import ConfiguredPolicy
from lwm_agent.models import MODELS

from .test_bench import SMALL, untrained

N = 5
TIMES = {"plan_ms", "seconds", "overshoot_ms"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "checkpoint"
    small = {**MODELS["lewm"].presets["tiny"], **SMALL}
    untrained(small, env_kwargs={"image_size": 32}).save(folder, "# card\n")
    return str(folder)


def config(out: Path, **settings: Any) -> EvalConfig:
    fixed: dict[str, Any] = {"planner": "random", "episodes": N, "batch_size": 2, "device": "cpu"}
    return EvalConfig(output_dir=out, **{**fixed, **settings})


def played(out: Path) -> list[dict[str, Any]]:
    """The episodes of an evaluation and of its floors, in the order of the tasks, without times."""
    results = json.loads((out / "results.json").read_text())
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()[1:]]
    episodes = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return [*sorted(episodes, key=lambda episode: episode["index"]), results["floors"]]


@pytest.mark.parametrize("planner", ["random", "cem"])
def test_two_processes_give_the_results_of_one(planner: str, checkpoint: str, tmp_path: Path) -> None:
    search = {"num_samples": 4, "num_elites": 2, "iterations": 2}
    agent = {"planner": "cem", "checkpoint": checkpoint, "planner_settings": search, "agent_settings": {"bf16": False}}
    settings = agent if planner == "cem" else {}
    seen: list[tuple[int, int]] = []
    reports: dict[int, Report] = {}
    for workers in (1, 2):
        out = tmp_path / str(workers)
        reports[workers] = run_evaluation(
            config(out, workers=workers, video=1, **settings),
            lambda episode, total: seen.append((episode.index, total)),
        )
    assert sorted(seen) == sorted(2 * [(index, N) for index in range(N)])
    assert played(tmp_path / "2") == played(tmp_path / "1")
    assert reports[2].summaries.keys() == reports[1].summaries.keys() == {planner, "random", "none"}
    assert [reports[workers].num_videos for workers in (1, 2)] == [1, 1]
    assert [path.name for path in (tmp_path / "2" / "videos").iterdir()] == ["task-000.mp4"]


def test_an_environment_of_your_own_is_imported_by_the_processes(room: ModuleType, tmp_path: Path) -> None:
    make_tasks("room:Room-v0", 25, 3, seed=0).save(tmp_path / "tasks.json")
    settings = {"env": "room:Room-v0", "tasks": tmp_path / "tasks.json", "episodes": None}
    for workers in (1, 2):
        run_evaluation(config(tmp_path / str(workers), workers=workers, with_floors=False, **settings))
    assert played(tmp_path / "2") == played(tmp_path / "1")


def test_interrupted_evaluation_is_resumed_with_any_number_of_processes(tmp_path: Path) -> None:
    whole = run_evaluation(config(tmp_path / "whole"))
    count = 0

    def interrupt(episode: Episode, total: int) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_evaluation(config(tmp_path / "cut", workers=2), interrupt)
    resumed = run_evaluation(config(tmp_path / "cut", workers=4))
    assert (whole.num_resumed, resumed.num_resumed) == (0, 3)
    assert played(tmp_path / "cut") == played(tmp_path / "whole")
    again = run_evaluation(config(tmp_path / "cut", workers=2, with_floors=False))
    assert again.num_resumed == N


def test_milliseconds_are_not_shared(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = config(tmp_path, planner="cem", checkpoint=checkpoint, budget_ms=50.0, workers=2)
    with pytest.raises(UserError, match="--workers 2: with --budget-ms, processes on one device take time"):
        run_evaluation(timed)
    monkeypatch.setattr("lwm_agent.experiments.evaluate.count_devices", lambda name: 2)
    agent = ConfiguredPolicy(None, {}, {}, max_rollouts=7)  # type: ignore[arg-type]
    assert _shared(timed, agent) == timed


def test_processes_on_one_device_share_its_memory(tmp_path: Path) -> None:
    agent = ConfiguredPolicy(None, {}, {}, max_rollouts=7)  # type: ignore[arg-type]
    assert _shared(config(tmp_path, planner="cem", workers=3), agent).agent_settings == {"max_rollouts": 2}
    own = config(tmp_path, planner="cem", workers=3, agent_settings={"max_rollouts": 5})
    assert _shared(own, agent).agent_settings == {"max_rollouts": 5}
    assert _shared(config(tmp_path, workers=3), ConfiguredPolicy(None, {}, {})).agent_settings == {}  # type: ignore[arg-type]


def double(items: Sequence[int], finish: Callable[[int], None]) -> None:
    for item in items:
        if item < 0:
            raise FileError("somewhere cannot be written: the disk is full")
        if item == 99:
            os._exit(3)
        finish(2 * item)


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find this module; last, because the packages lie elsewhere than in an installation here."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent.parent)])


@pytest.mark.usefixtures("_importable")
def test_items_are_shared_out() -> None:
    assert sorted(share_out(double, range(7), 3, False)) == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.usefixtures("_importable")
def test_an_error_of_one_process_ends_all_and_keeps_its_kind() -> None:
    with pytest.raises(FileError, match="somewhere cannot be written: the disk is full") as caught:
        list(share_out(double, [1, 2, -1], 2, False))
    assert "in double" in str(caught.value.__cause__)


@pytest.mark.usefixtures("_importable")
def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(MachineError, match="ended with exit code 3: is there enough memory"):
        list(share_out(double, [1, 99], 2, False))
