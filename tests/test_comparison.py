"""Comparisons of models: the grid, the cells and the engines that play them."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.cli.main import app
from lwm_agent.errors import UserError
from lwm_agent.eval.comparison import BELOW_PLAN, BELOW_ROLLOUT, FAILED, PLAYED, POLICY, Limit, ModelComparison
from lwm_agent.eval.results_file import parse_results
from lwm_agent.experiments import comparison as comparison_module
from lwm_agent.experiments.comparison import failures, play, run_comparison
from lwm_agent.experiments.comparison_config import CompareConfig
from lwm_agent.experiments.comparison_grid import find_entrants, folder_of, make_floor_jobs, make_jobs
from lwm_agent.experiments.engines import Outcome, parallel_jobs, run_jobs
from lwm_agent.models import MODELS, Heads

from .test_bench import SMALL, untrained

SEARCH = {"cem.num_samples": 4, "cem.num_elites": 2, "gradient.num_samples": 2}
ENOUGH = 1e6


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with untrained world models: two with heads, one without."""
    folder = tmp_path_factory.mktemp("untrained")
    for seed, name in enumerate(("one", "two", "plain")):
        torch.manual_seed(seed)
        heads = None if name == "plain" else Heads(latent_size=8, block_size=10, width=16, max_steps=6)
        small, conventions = {**MODELS["lewm"].presets["tiny"], **SMALL}, {"image_size": 32}
        untrained(small, heads=heads, env_kwargs=conventions).save(folder / name, "# card\n")
    return {name: str(folder / name) for name in ("one", "two", "plain")}


def config(out: Path, *models: str, **settings: Any) -> CompareConfig:
    fixed: dict[str, Any] = {
        "planner": ("cem",),
        "budget_flops": (ENOUGH,),
        "episodes": 2,
        "device": "cpu",
        "video": 0,
        "jobs": 1,
        "agent_settings": {"num_proposals": 2, "bf16": False},
    }
    settings = {**fixed, **settings}
    search = {name: value for name, value in SEARCH.items() if name.partition(".")[0] in settings["planner"]}
    return CompareConfig(model=models, out=out, planner_settings=search, **settings)


def outcomes(comparison: ModelComparison) -> list[tuple[Any, ...]]:
    """All that the cells say, but for times and rounding."""
    return [
        (cell.key, cell.solved, cell.summary.flops, {name: f"{x:.3g}" for name, x in cell.summary.final_errors.items()})
        for cell in (*comparison.floors, *comparison.cells)
        if cell.summary is not None
    ]


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the tables and figures, which take longer than the cells."""
    monkeypatch.setattr(comparison_module, "write_comparison", lambda *_: None)


def test_iterations_hold_for_the_cells_without_a_budget(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    model, search = f"one={checkpoints['one']}", {"cem.iterations": 3, "cem.num_samples": 8, "cem.num_elites": 2}
    settings = replace(config(tmp_path, model, unlimited=True), planner_settings=search)
    limited, free = make_jobs(settings, find_entrants(settings))
    assert limited.config.planner_settings == {"num_samples": 8, "num_elites": 2}
    assert free.config.planner_settings == {"num_samples": 8, "num_elites": 2, "iterations": 3}
    only = replace(settings, unlimited=False)
    with pytest.raises(UserError, match=r"planner.iterations has no effect beside a budget"):
        make_jobs(only, find_entrants(only))


def test_grid_has_every_combination_and_one_cell_for_a_policy(checkpoints: dict[str, str], tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        f"world={checkpoints['one']}",
        f"world={checkpoints['two']}",
        f"world-actor={checkpoints['one']}",
        planner=("cem", "gradient"),
        budget_flops=(1e5, 1e6),
        budget_ms=(50.0,),
        unlimited=True,
        offset=(25, 50),
        video=2,
    )
    jobs = make_jobs(settings, find_entrants(settings))
    assert len(jobs) == 2 * (2 * 2 * 4 + 1)
    assert len({job.key for job in jobs}) == len({folder_of(job.key) for job in jobs}) == len(jobs)
    policies = [job for job in jobs if job.key.planner == POLICY]
    assert [(job.key.model, job.key.limit) for job in policies] == [("world-actor", Limit())] * 2
    assert [job.key.training_seed for job in jobs if job.key.offset == 25][::8] == [0, 1, 0]
    timed = [job for job in jobs if job.key.limit.unit == "ms"]
    assert {(job.config.batch_size, job.config.budget_ms) for job in timed} == {(1, 50.0)}
    filmed = {job.key.limit for job in jobs if job.config.video == 2}
    assert filmed == {Limit()}  # the last budget, and the policy
    assert {job.config.planner for job in make_floor_jobs(settings)} == {"random", "none", "replay"}
    assert parallel_jobs(replace(settings, jobs=None), 34, timed=True) == 1  # milliseconds
    assert parallel_jobs(replace(settings, jobs=None), 34, timed=False) == min(8, os.cpu_count() or 1)


def test_names_without_a_folder_are_the_packages_own(tmp_path: Path) -> None:
    entrants = find_entrants(config(tmp_path, "lewm", "lewm-actor", env=("pusht", "cube")))
    assert [(entrant.model, entrant.checkpoint, entrant.reactive) for entrant in entrants] == [
        ("lewm", "pusht-tiny", False),
        ("lewm", "cube-tiny", False),
        ("lewm-actor", "pusht-tiny", True),
        ("lewm-actor", "cube-tiny", True),
    ]


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        (("genius",), {}, r"no checkpoint 'pusht-genius' .*train one and pass --model genius=FOLDER"),
        (("a={one}", "a={one}"), {}, "--model a is named twice with the same checkpoint"),
        (("a={one}",), {"env": ("cube",)}, "was trained for pusht, not for cube: pass --env pusht too"),
        (("a=",), {}, "write NAME or NAME=FOLDER"),
        (("=x",), {}, "write NAME or NAME=FOLDER"),
        ((), {}, "0 results are named: name two"),
        (("a={one}",), {"results": (Path("a"), Path("b"))}, "either two results.json or models"),
        (("a={one}",), {"address": "auto"}, "--address is for --engine ray"),
        (("a={one}",), {"env": ("tennis",)}, "env='tennis' is unknown: choose one of pusht"),
        (("a={one}",), {"offset": (25, 0)}, "offset=0 must be at least 1"),
        (("a={one}",), {"engine": "cloud"}, "engine='cloud' is unknown"),
    ],
)
def test_mistakes_are_refused(
    models: tuple[str, ...], settings: dict[str, Any], message: str, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        find_entrants(config(tmp_path, *(model.format(**checkpoints) for model in models), **settings))


def test_settings_are_those_of_a_planner(checkpoints: dict[str, str], tmp_path: Path) -> None:
    settings = config(tmp_path, "a=x", planner=("cem", "gradient"))
    assert settings.settings_of("cem") == {"num_samples": 4, "num_elites": 2}
    with pytest.raises(UserError, match=r"--set planner\.num_samples names no planner"):
        replace(settings, planner_settings={"num_samples": 3})


def test_cells_are_played_or_say_why_not(checkpoints: dict[str, str], tmp_path: Path) -> None:
    names = [f"{name}={checkpoints['one']}" for name in ("world", "world-actor")]
    result = run_comparison(config(tmp_path, *names, budget_flops=(10.0, 8e4, ENOUGH), video=1))
    statuses = {(cell.key.model, cell.key.limit.value): cell.status for cell in result.cells}
    assert statuses == {
        ("world", 10.0): BELOW_ROLLOUT,
        ("world", 8e4): BELOW_PLAN,
        ("world", ENOUGH): PLAYED,
        ("world-actor", 0.0): PLAYED,
    }
    (cell,) = [cell for cell in result.cells if cell.key.limit.value == ENOUGH]
    assert cell.summary is not None
    assert cell.account is not None
    assert 0 < cell.summary.flops <= ENOUGH
    assert cell.account.rollout_flops is not None
    assert 10 < cell.account.rollout_flops < 8e4
    assert cell.encode_ms is not None
    assert cell.encode_ms > 0
    stored = json.loads((tmp_path / folder_of(cell.key) / "results.json").read_text())
    assert stored["run"]["model"]["parameters"] == cell.account.parameters
    assert stored["run"]["model"]["tokens"] == 1
    assert [floor.summary.success for floor in result.floors if floor.summary] == [0.0, 0.0, 1.0]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("cells", "figures", "videos"),
        *("comparison.md", "report.html", "results.csv", "results.json"),
    }
    assert (tmp_path / "videos" / "pusht-25-000.mp4").exists()


class Killed(BaseException):
    """Stands for a killed process."""


@pytest.mark.usefixtures("unwritten")
def test_interrupted_comparison_goes_on_inside_a_cell(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"world={checkpoints['one']}", f"world={checkpoints['two']}"]
    whole = run_comparison(config(tmp_path / "whole", *names))
    settings, played = config(tmp_path / "cut", *names), []
    run: Callable[..., Any] = comparison_module.run_evaluation

    def cut(evaluation: Any) -> Any:
        played.append(evaluation.output_dir)
        if len(played) == 5:  # the second seed, after the floors, the ceiling and the first
            run(evaluation)
            log = evaluation.output_dir / "episodes.jsonl"
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
            (evaluation.output_dir / "results.json").unlink()
            raise Killed
        return run(evaluation)

    monkeypatch.setattr(comparison_module, "run_evaluation", cut)
    with pytest.raises(Killed):
        run_comparison(settings)
    monkeypatch.setattr(comparison_module, "run_evaluation", run)
    resumed: list[int] = []
    monkeypatch.setattr(comparison_module, "run_evaluation", lambda job: resumed.append(run(job).num_resumed))
    assert outcomes(run_comparison(settings)) == outcomes(whole)
    assert resumed == [2, 2, 2, 2, 1]


@pytest.mark.usefixtures("unwritten")
def test_decisions_are_as_many_whatever_a_checkpoint_recommends(checkpoints: dict[str, str], tmp_path: Path) -> None:
    eager = replace(Checkpoint.load(checkpoints["one"]), replan_every_env_steps=1)
    eager.save(tmp_path / "eager", "# card\n")
    models = [f"one={checkpoints['one']}", f"eager={tmp_path / 'eager'}", f"eager-actor={tmp_path / 'eager'}"]
    comparison = run_comparison(config(tmp_path / "out", *models))
    paths = [tmp_path / "out" / folder_of(cell.key) / "results.json" for cell in comparison.cells]
    assert [parse_results(path).run["planner"]["agent"]["replan_every_env_steps"] for path in paths] == [5, 5, 5]
    one, other, _ = outcomes(comparison)[3:]  # after the floors
    assert one[1:] == other[1:]


@pytest.mark.usefixtures("unwritten")
def test_two_processes_give_the_results_of_one(checkpoints: dict[str, str], tmp_path: Path) -> None:
    names = [f"world={checkpoints['one']}", f"world={checkpoints['two']}"]
    alone = run_comparison(config(tmp_path / "one", *names))
    assert outcomes(run_comparison(config(tmp_path / "two", *names, jobs=2))) == outcomes(alone)


@pytest.mark.usefixtures("unwritten")
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (the extra of that name)")
def test_ray_gives_the_results_of_one_process(checkpoints: dict[str, str], tmp_path: Path) -> None:
    names = [f"world={checkpoints['one']}", f"world-actor={checkpoints['two']}"]
    alone = run_comparison(config(tmp_path / "one", *names))
    assert outcomes(run_comparison(config(tmp_path / "ray", *names, engine="ray"))) == outcomes(alone)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (the extra of that name)")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nobody.invalid:6379"])
def test_ray_is_not_looked_for_where_nobody_listens(
    address: str, checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look for minutes."""
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(UserError, match=f"--address {address}: Ray cannot be reached there"):
        run_comparison(config(tmp_path, f"world={checkpoints['one']}", engine="ray", address=address))


def test_ray_that_is_not_installed_is_named(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="--engine ray needs Ray: pip install 'ray>="):
        run_comparison(config(tmp_path, f"world={checkpoints['one']}", engine="ray"))


@pytest.mark.usefixtures("unwritten")
def test_one_failure_does_not_stop_the_others(checkpoints: dict[str, str], tmp_path: Path) -> None:
    settings = config(tmp_path, f"plain={checkpoints['plain']}", planner=("cem", "guided"))
    result = run_comparison(settings)
    (failed,) = failures(result)
    assert (failed.key.planner, failed.status) == ("guided", FAILED)
    assert "GuidedCEM needs a learned proposal" in failed.message
    assert result.cells[0].status == PLAYED


def test_bug_in_a_cell_leaves_its_traceback(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(evaluation: Any) -> Any:
        raise ZeroDivisionError("of zero")

    monkeypatch.setattr(comparison_module, "run_evaluation", fail)
    with pytest.raises(UserError, match="no cell could be played: failed, ZeroDivisionError: of zero"):
        run_comparison(config(tmp_path, f"world={checkpoints['one']}"))
    (path,) = (tmp_path / "cells" / "pusht-25" / "world-0").rglob("error.txt")
    assert "raise ZeroDivisionError" in path.read_text()


def test_a_process_that_dies_is_an_outcome_and_another_takes_its_place(tmp_path: Path) -> None:
    keys = make_floor_jobs(config(tmp_path, "a=x"))
    dying = [replace(job, config=Deadly()) for job in keys[:2]]  # type: ignore[arg-type]
    results = {job.key: outcome for job, outcome in run_jobs([*dying, keys[2]], play, "local", 2)}
    assert [results[job.key].status for job in dying] == [FAILED, FAILED]
    assert "its process ended with exit code 7" in results[dying[0].key].message
    assert results[keys[2].key] == Outcome()


class Deadly:
    """Settings that end the process in which they are unpacked."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (7,)


def test_closing_the_results_ends_the_processes(tmp_path: Path) -> None:
    short, long = (make_floor_jobs(config(tmp_path, "a=x", episodes=episodes)) for episodes in (1, None))
    others = set(multiprocessing.active_children())  # of tests before, which may end late on a busy machine
    results = run_jobs([short[0], *long[1:]], play, "local", 2)
    next(results)
    assert set(multiprocessing.active_children()) - others
    results.close()
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.usefixtures("unwritten")
def test_command_takes_several_values_and_its_exit_code_tells_of_failures(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CompareConfig] = []

    def run(settings: CompareConfig, progress: Any) -> ModelComparison:
        seen.append(settings)
        return run_comparison(settings, progress)

    monkeypatch.setattr(comparison_module, "run_comparison", run)
    command = (
        f"compare --env pusht --model plain={checkpoints['plain']} world-actor={checkpoints['one']} "
        "--planner cem guided --budget-flops 10 1e6 --offset 25 50 --episodes 2 --device cpu --jobs 1 --video 0 "
        f"--out {tmp_path / 'out'} --set planner.cem.num_samples=4 --set planner.cem.num_elites=2"
    )
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1, done.output
    (settings,) = seen
    assert (settings.offset, settings.budget_flops, settings.planner) == ((25, 50), (10.0, 1e6), ("cem", "guided"))
    printed = " ".join(done.output.split())
    assert "2 cells failed: the same command tries again" in printed
    assert "report.html" in printed
