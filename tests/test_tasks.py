from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm_agent.envs.pusht import PushTEnv, angle_error, position_error
from lwm_agent.envs.pusht_geometry import TEE
from lwm_agent.errors import UserError
from lwm_agent.eval import TaskSet, make_env, make_tasks, shipped_tasks
from lwm_agent.eval.results_file import parse_results
from lwm_agent.eval.tasks import HELD_OUT, SHIPPED
from lwm_agent.experiments.config import EvalConfig
from lwm_agent.experiments.evaluate import run_evaluation
from lwm_agent.experiments.played_before import evaluation_of

from .test_env_contract import make


@pytest.fixture(scope="module")
def task_set() -> TaskSet:
    return make_tasks("pusht", 11, 5, seed=3)


def test_saved_tasks_load_unchanged(task_set: TaskSet, tmp_path: Path) -> None:
    task_set.save(tmp_path / "tasks.json")
    loaded = TaskSet.load(tmp_path / "tasks.json")
    assert loaded == task_set
    assert loaded.sha256 == task_set.sha256
    assert [file.name for file in tmp_path.iterdir()] == ["tasks.json"]


def test_replaying_loaded_actions_reaches_the_goal_exactly(task_set: TaskSet, tmp_path: Path) -> None:
    task_set.save(tmp_path / "tasks.json")
    with make_env(task_set) as env:
        for task in TaskSet.load(tmp_path / "tasks.json").tasks:
            env.reset(options=task.reset_options)
            for action in task.env_actions:
                info = env.step(np.array(action, np.float32))[-1]
            assert tuple(info["state"]) == task.goal_state


def test_strict_tasks_require_the_block_to_move(task_set: TaskSet) -> None:
    env = PushTEnv()
    for task in task_set.tasks:
        state, goal_state = np.array(task.state), np.array(task.goal_state)
        assert not env.is_success(state, goal_state)
        assert position_error(state, goal_state, first=2) >= 20 or np.degrees(angle_error(state, goal_state)) >= 20


def test_paper_protocol_keeps_windows_solved_at_the_start() -> None:
    task_set = make_tasks("pusht", 2, 4, seed=0, protocol="lewm-paper")
    assert task_set.budget_env_steps == 4
    env = PushTEnv()
    assert any(env.is_success(np.array(task.state), np.array(task.goal_state)) for task in task_set.tasks)


def test_make_tasks_repeats_for_a_seed_and_reports_progress() -> None:
    seen: list[tuple[int, int]] = []
    again = make_tasks("pusht", 5, 2, seed=7, split="val", progress=lambda done, wanted: seen.append((done, wanted)))
    assert again == make_tasks("pusht", 5, 2, seed=7, split="val")
    assert again.tasks != make_tasks("pusht", 5, 2, seed=8).tasks
    assert seen == [(1, 2), (2, 2)]


def test_held_out_episodes_are_not_training_episodes() -> None:
    def root(*words: int) -> bytes:
        return np.random.SeedSequence(words).generate_state(4).tobytes()

    training = {root(seed, episode) for seed in (0, 1, HELD_OUT) for episode in (0, 1, HELD_OUT)}
    held_out = {root(seed, episode, HELD_OUT) for seed in (0, 1, HELD_OUT) for episode in (0, 1, HELD_OUT)}
    assert not training & held_out


def test_make_tasks_refuses_an_environment_with_inexact_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = PushTEnv.set_state
    monkeypatch.setattr(PushTEnv, "set_state", lambda self, state: restore(self, np.add(state, 1e-9)))
    with pytest.raises(RuntimeError, match="does not restore exactly"):
        make_tasks("pusht", 5, 1, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "pong"}, "env='pong' is unknown: choose one of pusht"),
        ({"protocol": "easy"}, "choose one of strict, drawn, drawn-wall, drawn-turned, drawn-edge, lewm-paper"),
        ({"offset": 0}, "offset=0 is out of range"),
        ({"offset": 10_000}, "offset=10000 is out of range"),
    ],
)
def test_make_tasks_refuses_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tasks(**{"env": "pusht", "offset": 5, "episodes": 1, "seed": 0, **arguments})


def _edited(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: {**contents, **fields}


def _second_task(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: {**contents, "tasks": [contents["tasks"][0], {**contents["tasks"][1], **fields}]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda contents: {"tasks": [1, 2]}, "format is None"),
        (lambda contents: [1, 2], "format is None"),
        (_edited(format="lwm-agent tasks 0"), "format is 'lwm-agent tasks 0'"),
        (_edited(notes="mine"), r"unknown \['notes'\]"),
        (lambda contents: {"format": contents["format"]}, r"missing \['budget_env_steps', .*\], unknown \[\]"),
        (_edited(tasks=[7]), "damaged"),
        (_edited(tasks=7), "damaged"),
        (_edited(tasks=[]), "no tasks"),
        (_second_task(state=[1.0] * 8), "task 1: start and goal must have 7 numbers"),
        (_second_task(goal_state=["left"] * 7), "damaged: task 1: goal_state: 'left' is not a number"),
        (_second_task(goal_state=[float("nan")] * 7), "task 1: start and goal must be finite"),
        (_second_task(env_actions=[[0.0, 0.0]] * 10), "task 1: 10 actions, expected 11"),
        (_second_task(score=1), r"unknown \['score'\]"),
        (_second_task(env_actions=7), "task 1: env_actions is not a list"),
        (_second_task(env_actions=[7] * 11), "task 1: env_actions is not a list"),
        (_second_task(env_actions=[[0.0] * 3] * 11), "task 1: action 0 has 3 numbers, expected 2"),
        (_second_task(env_actions=[[0.0, 1.5]] * 11), r"task 1: action 0, \[0.0, 1.5\], is not in the action space"),
        (_second_task(env_actions=[[0.0, float("nan")]] * 11), "task 1: action 0, .*, is not in the action space"),
        (_second_task(goal_state=[1e9] * 7), "task 1: goal_state has numbers beyond"),
        (_second_task(goal_state=[True] * 7), "task 1: goal_state: True is not a number"),
        (_second_task(episode_seed=1.5), "task 1: episode_seed=1.5 is not a count"),
        (_second_task(start_step=-1), "task 1: start_step=-1 is not a count"),
        (_edited(offset_env_steps=True), "offset_env_steps=True is not a count"),
        (_edited(seed="3"), "seed='3' is not a count"),
        (_edited(protocol=None), "protocol=None is not a word"),
        (_edited(split=""), "split='' is not a word"),
        (_edited(env_kwargs=[]), "env_kwargs is not an object"),
        (_edited(env_kwargs={"sucess": "pose"}), "sucess is unknown: choose from control_mode, image_size, look"),
        (_edited(env_kwargs={"render_mode": "human"}), "env_kwargs.render_mode is unknown"),
        (_edited(env_kwargs={"success": ["pose"]}), "env_kwargs.success=.* is not a word, a number, true or false"),
        (_edited(env_kwargs={"success": "any"}), "success='any' is unknown: choose one of"),
        (_edited(env_kwargs={"image_size": 0}), "image_size=0 is out of range"),
    ],
)
def test_load_refuses_damaged_files_by_field(
    task_set: TaskSet, tmp_path: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "tasks.json"
    task_set.save(path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message) as error:
        TaskSet.load(path)
    assert "tasks.json" in str(error.value)


def test_load_refuses_torn_files(task_set: TaskSet, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    task_set.save(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="not a task file, or is damaged"):
        TaskSet.load(path)


def test_load_refuses_pipes_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(UserError, match="no regular file"):
            TaskSet.load(path)
    with pytest.raises(UserError, match="there is no file"):
        TaskSet.load(tmp_path / "missing.json")


@pytest.mark.parametrize("env_kwargs", [{"control_mode": "relative", "success": "block"}, {"image_size": 96}])
def test_load_accepts_arguments_of_the_environment(
    task_set: TaskSet, tmp_path: Path, env_kwargs: dict[str, Any]
) -> None:
    replace(task_set, env_kwargs=env_kwargs).save(tmp_path / "tasks.json")
    assert TaskSet.load(tmp_path / "tasks.json").env_kwargs == env_kwargs


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_tasks_load(path: Path) -> None:
    assert TaskSet.load(path).tasks


def test_load_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_bytes(b"\x89HDF\xff\x00")
    with pytest.raises(ValueError, match="not a task file"):
        TaskSet.load(tmp_path / "tasks.json")


def test_shipped_lists_the_choices(task_set: TaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_agent.eval.tasks.SHIPPED", tmp_path)
    replace(task_set, split="test").save(tmp_path / "pusht-strict-test-11.json")
    for env in ("pusht", "lwm/PushT-v0"):
        assert shipped_tasks(env, "strict", "test", 11).tasks == task_set.tasks
    with pytest.raises(ValueError, match="choose one of pusht-strict-test-11"):
        shipped_tasks("pusht", "strict", "test", 12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env_id": "antigravity:PushT-v0"}, "env_id='antigravity:PushT-v0' is not that of pusht"),
        ({"env_id": ["lwm/PushT-v0"]}, "is not that of pusht"),
        ({"env": "chess"}, "choose one of"),
        *(
            ({"budget_env_steps": budget}, "is not a count from 1 to")
            for budget in (0, -1, 10**9, 2.5, True, None, "9")
        ),
    ],
)
def test_load_requires_the_environment_s_id_and_a_finite_budget(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "tasks.json"
    shipped_tasks("pusht").save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=words):
        TaskSet.load(path)


CUBE = pytest.mark.ogbench


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *(("pusht", "drawn"), ("pusht", "drawn-wall"), ("pusht", "drawn-turned")),
        *(pytest.param("cube", protocol, marks=CUBE) for protocol in ("drawn", "drawn-edge")),
    ],
)
def test_drawn_goals_have_no_actions_and_round_trip(name: str, protocol: str, tmp_path: Path) -> None:
    task_set = make_tasks(name, 3, 2, seed=1, protocol=protocol)
    assert task_set.budget_env_steps == 6
    assert {task.env_actions for task in task_set.tasks} == {()}
    assert len({task.goal_state for task in task_set.tasks}) == 2
    task_set.save(tmp_path / "tasks.json")
    assert TaskSet.load(tmp_path / "tasks.json") == task_set
    assert make_tasks(name, 3, 2, seed=1, protocol=protocol) == task_set
    played = make_tasks(name, 3, 2, seed=1)
    assert {task.goal_state for task in task_set.tasks}.isdisjoint(task.goal_state for task in played.tasks)
    with make(name) as env:
        for task in task_set.tasks:
            _, info = env.reset(options=task.reset_options)
            assert not info["is_success"]
            assert env.is_nontrivial(info["state"], info["goal_state"])
    with pytest.raises(UserError, match="expected 0"):
        replace(played, protocol=protocol)


@pytest.mark.parametrize("offset", [3, 25])
def test_the_goal_of_a_drawn_wall_is_beside_one_and_that_of_a_turn_is_half_a_turn_away(offset: int) -> None:
    with make("pusht") as env:
        for task in make_tasks("pusht", offset, 8, seed=2, protocol="drawn-wall").tasks:
            corners = np.concatenate(TEE.polygons(*task.goal_state[2:5]))
            assert min(corners.min(), 512 - corners.max()) == pytest.approx(11)
            env.reset(options={"state": task.goal_state})
            _, _, _, _, info = env.step(np.zeros(2, np.float32))
            np.testing.assert_allclose(info["state"], task.goal_state, atol=1e-6)  # no wall pushes it away
        for task in make_tasks("pusht", offset, 8, seed=2, protocol="drawn-turned").tasks:
            turn = math.remainder(task.goal_state[4] - task.state[4], 2 * math.pi)
            assert abs(turn) == pytest.approx(math.pi)


@CUBE
def test_the_goal_of_a_drawn_edge_lies_still_outside_of_what_play_aims_at() -> None:
    with make("cube") as env:
        for task in make_tasks("cube", 3, 8, seed=2, protocol="drawn-edge").tasks:
            x, y, z = task.goal_state[14:17]
            assert 0.25 <= x <= 0.6
            assert abs(y) <= 0.35
            assert not (0.3 <= x <= 0.55 and abs(y) <= 0.3)
            env.reset(options={"state": task.goal_state})
            _, _, _, _, info = env.step(np.zeros(5, np.float32))
            np.testing.assert_allclose(info["state"][14:17], (x, y, z), atol=1e-3)


def test_an_environment_without_such_goals_says_so() -> None:
    with pytest.raises(UserError, match="no such goals"):
        make_tasks("pusht", 3, 1, seed=1, protocol="drawn-edge")


def test_drawn_goals_are_evaluated_and_nobody_replays_them(tmp_path: Path) -> None:
    make_tasks("pusht", 3, 2, seed=1, protocol="drawn").save(tmp_path / "tasks.json")
    settings: dict[str, Any] = {
        "env": "pusht",
        "protocol": "drawn",
        "tasks": tmp_path / "tasks.json",
        "with_floors": False,
    }
    report = run_evaluation(EvalConfig(planner="actor", output_dir=tmp_path / "actor", device="cpu", **settings))
    assert report.summaries["actor"].n == 2
    with pytest.raises(UserError, match="nobody has reached goals that were drawn"):
        run_evaluation(EvalConfig(planner="replay", output_dir=tmp_path / "replay", **settings))
    run_evaluation(EvalConfig(planner="cem", budget_rollouts=64, output_dir=tmp_path / "cem", device="cpu", **settings))
    with pytest.raises(UserError, match="which no recorded actions reach"):
        evaluation_of(parse_results(tmp_path / "cem/results.json"), tmp_path / "x", None, None, "cpu")
