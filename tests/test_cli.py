"""The command line as a newcomer uses it: collect, train, make tasks, evaluate, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest

from lwm_agent.cli.settings import parse_settings
from lwm_agent.experiments.film_config import DEMO_TASKS

from .commands import SEARCH, TRAIN, run, run_apart


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which data were collected, a model was trained and tasks were made."""
    work = tmp_path_factory.mktemp("work")
    run("collect --out data.h5 --episodes 4 --episode-env-steps 40 --image-size 32 --workers 1", work)
    run(f"train --data data.h5 --out run {TRAIN}", work)
    run("tasks --out tasks.json --offset 10 --episodes 3 --seed 7", work)
    return work


def results(work: Path, folder: str) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((work / folder / "results.json").read_text())
    return contents


@pytest.mark.parametrize("planner", ["cem", "lbfgs", "random-shooting"])
def test_eval_writes_results_with_their_floors(work: Path, planner: str) -> None:
    elites = "--set planner.num_elites=2" if planner == "cem" else ""
    command = f"eval --planner {planner} --checkpoint run/checkpoint --tasks tasks.json {SEARCH} {elites}"
    printed = run(f"{command} --output-dir {planner} --video 1", work)
    contents = results(work, planner)
    assert contents.keys() == {"format", "run", "summary", "floors", "columns", "episodes"}
    assert contents["floors"].keys() == {"random", "none"}
    assert [row[contents["columns"].index("index")] for row in contents["episodes"]] == [0, 1, 2]
    assert contents["summary"]["n"] == 3
    assert contents["summary"]["rollouts"] == (24 if planner == "lbfgs" else 12)
    assert contents["run"]["planner"]["agent"]["deadline_env_steps"] == 20
    assert len(contents["run"]["checkpoint"]) == 64
    for name in (planner, "random", "none", "95 % CI"):
        assert name in printed
    film = iio.imread(work / planner / "videos" / "task-000.mp4")
    assert film.ndim == 4
    again = run(f"{command} --output-dir {planner}", work)
    assert "3 of 3 episodes were there" in again
    assert results(work, planner)["episodes"] == contents["episodes"]


def test_files_name_the_planner_that_nobody_asked_for(work: Path) -> None:
    elites = "--set planner.num_elites=2 --no-floors --overwrite"
    run(f"eval --checkpoint run/checkpoint --tasks tasks.json {SEARCH} {elites} --output-dir default", work)
    assert results(work, "default")["run"]["planner"]["name"] == "cem"  # no heads were trained
    printed = run(f"eval --episodes 1 {SEARCH} {elites}", work)
    assert "out/pusht-guided-strict-test-25/results.json" in printed


def test_recommend_stores_the_cost_that_solves_most(work: Path) -> None:
    tried = f"--cost terminal running --tasks tasks.json {SEARCH} --set planner.num_elites=2 --output-dir tried"
    command = f"recommend --checkpoint run/checkpoint --out chosen {tried}"
    printed = run(command, work)
    rates = {cost: results(work, f"tried/{cost}")["summary"]["success"] for cost in ("terminal", "running")}
    best = max(rates, key=lambda cost: rates[cost])
    assert f"agents now minimise {best} with chosen" in printed
    config = json.loads((work / "chosen" / "config.json").read_text())
    assert config["cost"] == best
    assert config["training"]["recommendation"]["tried"] == rates
    card = (work / "chosen" / "README.md").read_text()
    assert "Share of 3 tasks that each cost solves (cem, strict custom, offset 10)" in card
    again = run(f"recommend --checkpoint chosen {tried} --overwrite", work)
    assert "agents now minimise" in again
    assert "--cost: leave it out" in run(f"{command} --set agent.cost=running", work, 2)


def test_two_planners_in_a_row_are_set_one_by_one(work: Path) -> None:
    first = "--set planner.first.num_samples=6 --set planner.first.num_elites=2 --set planner.first.iterations=1"
    second = "--set planner.second.num_samples=3 --set planner.second.iterations=1"
    run(
        f"eval --planner cem+gradient --checkpoint run/checkpoint --tasks tasks.json {first} {second} --device cpu "
        "--episodes 1 --no-floors --output-dir chain",
        work,
    )
    contents = results(work, "chain")
    assert contents["summary"]["rollouts"] == 6 + 2 * 3
    assert contents["run"]["planner"]["first"]["num_elites"] == 2


def test_replay_is_the_ceiling_and_compare_pairs_it_with_a_floor(work: Path) -> None:
    for planner in ("replay", "none"):
        run(f"eval --planner {planner} --tasks tasks.json --no-floors --output-dir {planner}", work)
    assert results(work, "replay")["summary"]["success"] == 1.0
    assert results(work, "none")["summary"]["success"] == 0.0
    printed = run("compare replay/results.json none/results.json", work)
    assert "100.0 %" in printed
    assert "solved by the first only 3" in printed


@pytest.mark.parametrize(
    ("unit", "limit", "most"),
    [("rollouts", 7, 6), ("iterations", 3, 18), ("flops", 4e5, None), ("ms", 0.01, 6)],
)
def test_budgets_in_each_unit_are_kept(work: Path, unit: str, limit: float, most: int | None) -> None:
    folder = f"budget-{unit}"
    search = "--set planner.num_samples=6 --set planner.num_elites=2 --device cpu --no-floors"
    run(f"eval --checkpoint run/checkpoint --tasks tasks.json {search} --budget-{unit} {limit} "
        f"--output-dir {folder}", work)  # fmt: skip
    contents = results(work, folder)
    spent = contents["summary"]
    if unit == "flops":
        assert 0 < spent["flops"] <= limit
        assert spent["rollouts"] > 12  # more than its own iterations fit in where plans are short, before the deadline
    else:
        assert spent["rollouts"] == most
    assert (spent["overshoot_ms"] > 0) == (unit == "ms")
    name, size = ("seconds", 1e-3) if unit == "ms" else (unit, 1)
    assert contents["run"]["planner"]["budget"][name] == pytest.approx(limit * size)


@pytest.mark.ogbench
def test_the_cube_is_evaluated_with_the_checkpoint_that_ships(tmp_path: Path) -> None:
    printed = run("eval --env cube --planner guided --episodes 2 --video 1 --device cpu --output-dir cube", tmp_path)
    contents = results(tmp_path, "cube")
    assert contents["summary"]["n"] == 2
    assert contents["floors"].keys() == {"random", "none"}
    assert all(name in printed for name in ("guided", "random", "95 % CI"))
    film = iio.imread(tmp_path / "cube" / "videos" / "task-000.mp4")
    assert film.std() > 10  # something was drawn


@pytest.mark.parametrize("env", ["pusht", pytest.param("cube", marks=pytest.mark.ogbench)])
def test_demo_films_a_task_that_the_shipped_agent_solves(env: str, tmp_path: Path) -> None:
    printed = run(f"demo --env {env}", tmp_path)
    number = DEMO_TASKS[env]
    assert f"task {number} of 200: guided reached the goal after" in printed
    assert f"lwm-agent eval --env {env} --planner guided" in printed
    film = iio.imread(tmp_path / "out" / f"demo-{env}" / f"task-{number:03d}.gif")
    assert len(film) > 10
    assert film.shape[1:] == (608, 1104, 3)  # now, goal, the imagined end of the plan, search


def test_demo_says_so_where_the_goal_is_not_reached(tmp_path: Path) -> None:
    printed = run("demo --planner none --task 4 --offset 50 --output-dir .", tmp_path)
    assert "task 4 of 200: none did not reach the goal in 100 steps" in printed
    assert printed.endswith("all 200 tasks: lwm-agent eval --env pusht --planner none --offset 50")
    assert (tmp_path / "task-004.gif").exists()


def test_drawn_tasks_are_evaluated_and_filmed_without_naming_their_offset(tmp_path: Path) -> None:
    printed = run("demo --planner none --protocol drawn --output-dir .", tmp_path)
    assert "task 0 of 100: none did not reach the goal in 200 steps" in printed
    assert printed.endswith("lwm-agent eval --env pusht --planner none --protocol drawn")
    run("record --planner none --protocol drawn --first 7 --episodes 1 --out films", tmp_path)
    assert (tmp_path / "films" / "task-007.gif").exists()
    run("eval --planner none --protocol drawn --episodes 1 --no-floors", tmp_path)
    contents = json.loads((tmp_path / "out" / "pusht-none-drawn-test-100" / "results.json").read_text())
    assert contents["run"]["tasks"]["offset_env_steps"] == 100


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("demo --task 200", "--task 200: the 200 tasks are 0 to 199"),
        ("demo --env cube-double --planner none", "no tasks 'cube-double-strict-test-25' are shipped"),
        ("eval --env tennis", "'tennis' is unknown: choose one of pusht"),
        (
            "eval --planner magic",
            "'magic' is unknown: choose one of actor, categorical-cem, cem",
        ),
        (
            "eval --planner none --protocol drawn --offset 25",
            "--protocol drawn --offset 25 --out tasks.json`, and evaluate on them",
        ),
        ("eval --planner none --protocol easy", "no tasks 'pusht-easy-test-25' are shipped: choose one of cube-drawn"),
        ("eval --checkpoint nowhere", "no checkpoint at 'nowhere'"),
        ("eval --checkpoint run/checkpoint --set planner.samples=3", "samples"),
        ("eval --checkpoint run/checkpoint --set samples=3", "write planner.NAME=VALUE, agent.NAME=VALUE"),
        ("eval --checkpoint run/checkpoint --tasks tasks.json --episodes 9", "there are 3 such tasks"),
        ("eval --checkpoint run/checkpoint --device tpu", "device='tpu' is unknown: choose one of auto, cpu"),
        ("eval --tasks data.h5 --planner none", "is not a task file"),
        ("train --data nowhere.h5 --out other", "nowhere.h5 does not exist"),
        ("train --data data.h5 --out run", "64-px frames and data.h5 has 32"),
        ("train --data data.h5 --out other --preset huge", "preset='huge' is unknown: choose one of base, tiny"),
        ("collect --out data.h5", "exists already"),
        ("collect --out other.h5 --policy lazy", "policy='lazy' is unknown"),
        ("train --data data.h5 --out other --env cube", "data.h5 was recorded in pusht, not in cube: pass --env pusht"),
        (
            "eval --checkpoint run/checkpoint --tasks tasks.json --set env.image_size=64",
            "was trained with image_size=32",
        ),
        ("convert tasks.json --out other.h5", "tasks.json is of no format that is known: LeRobot"),
        ("compare tasks.json tasks.json", "is not a results.json"),
        ("compare run run", "is not a results.json: it is no regular file"),
        (
            "train-heads --checkpoint run/checkpoint --data data.h5 --out run",
            "run is no checkpoint (it holds checkpoint)",
        ),
        ("eval --checkpoint run/checkpoint --set agent.seed=3", "agent.seed is unknown: choose one of bf16, compile"),
        ("eval --checkpoint run/checkpoint --set agent.horizon=five", "--set agent.horizon='five' must be int"),
        ("eval --tasks tasks.json --protocol lewm-paper", "tasks of strict, not of lewm-paper: pass --protocol strict"),
        ("eval --planner guided --set agent.proposal=none", "GuidedCEM needs a learned proposal"),
        ("eval --planner cem+guided --protocol lewm-paper", "needs a learned proposal"),
        ("eval --planner none --budget-ms 50", "plans nothing: it has no settings and no budget"),
        ("eval --budget-ms 50 --set planner.iterations=3", "planner.iterations has no effect beside a budget"),
        (
            "eval --planner cem+icem+sgd --budget-rollouts 900 --set planner.second.second.iterations=3",
            "--set planner.second.second.iterations has no effect",
        ),
        ("collect --out other.h5 --env Pendulum-v0 --policy random", "env='Pendulum-v0' cannot be made"),
    ],
)
def test_mistakes_are_told_in_a_line(work: Path, command: str, message: str) -> None:
    assert message in run(command, work, code=2)


def test_what_is_in_brackets_is_printed(work: Path) -> None:
    """They are no markup: the name of an extra is in them."""
    (work / "[/x]").mkdir(parents=True)
    assert "[/x]/t.json" in run_apart("tasks --out [/x]/t.json --offset 10 --episodes 1 --seed 7", work)
    assert "no checkpoint at '[plot]'" in run_apart("eval --checkpoint [plot]", work, code=2)


def test_the_protocol_of_the_paper_plans_as_it_did(work: Path) -> None:
    few = "--set planner.num_samples=9 --set planner.num_elites=2 --set planner.iterations=1 --device cpu --no-floors"
    limited = few.replace("--set planner.iterations=1", "--budget-iterations 2")
    run(f"eval --protocol lewm-paper --episodes 1 {limited} --output-dir limited", work)
    assert results(work, "limited")["summary"]["rollouts"] == 2 * 9
    run(f"eval --protocol lewm-paper --episodes 1 {few} --output-dir paper", work)
    planner = results(work, "paper")["run"]["planner"]
    assert (planner["name"], planner["noise_correlation"], planner["keep_best"]) == ("cem", 0.0, False)
    agent = {
        "cost": "terminal",
        "proposal": None,
        "replan_every_env_steps": 25,
        "horizon": 5,
        "deadline_env_steps": None,
    }
    assert agent.items() <= planner["agent"].items()
    run(f"train --data data.h5 --out slow {TRAIN} --set model.frameskip=7", work)
    run(f"eval --protocol lewm-paper --checkpoint slow/checkpoint --episodes 1 {few} --output-dir slow/paper", work)
    assert results(work, "slow/paper")["run"]["planner"]["agent"]["replan_every_env_steps"] == 35  # whole plans, still
    run(f"eval --episodes 1 {few.replace('9', '6')} --output-dir strict", work)
    assert results(work, "strict")["run"]["planner"]["name"] == "guided"


def test_videos_that_were_not_filmed_are_not_told_of(work: Path) -> None:
    command = f"eval --checkpoint run/checkpoint --tasks tasks.json {SEARCH} --set planner.num_elites=2 --no-floors"
    assert "video" not in run(f"{command} --output-dir films", work)
    printed = run(f"{command} --output-dir films --video 1", work)
    assert "and 0 videos" in printed
    assert "--overwrite plays those again" in printed
    assert "and 1 video" in run(f"{command} --output-dir films --video 1 --overwrite", work)


def test_settings_are_json_where_they_are() -> None:
    given = parse_settings(["a.x=3", "a.y=1e-3", "b.z=adam", "b.none=null"], ("a", "b", "c"))
    assert given == {"a": {"x": 3, "y": 1e-3}, "b": {"z": "adam", "none": None}, "c": {}}


@pytest.mark.parametrize("assignment", ["x=3", "a.x", "d.x=3", "a.=3"])
def test_settings_of_no_group_are_refused(assignment: str) -> None:
    with pytest.raises(ValueError, match=r"write a\.NAME=VALUE, b\.NAME=VALUE"):
        parse_settings([assignment], ("a", "b"))
