"""Environments of a user's own module: every command takes them by ``--env MODULE:NAME``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lwm_agent import register_env
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.envs import ENVS, find_env, name_of, spec_of
from lwm_agent.errors import UserError
from lwm_agent.eval import TaskSet, make_tasks

from .commands import SEARCH, TRAIN, run, run_apart
from .conftest import EXAMPLES
from .test_cli import results

ROOM = "room:Room-v0"


def test_every_command_takes_an_environment_of_the_working_directory(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "room.py", tmp_path)
    run(f"collect --env {ROOM} --out room.h5 --episodes 4 --episode-env-steps 30 --image-size 32 --workers 2", tmp_path)
    run(f"train --env {ROOM} --data room.h5 --out runs/room {TRAIN}", tmp_path)
    assert Checkpoint.load(tmp_path / "runs/room/checkpoint").env == "Room-v0"
    run(f"tasks --env {ROOM} --out room.json --offset 10 --episodes 3", tmp_path)
    model = "--checkpoint runs/room/checkpoint"
    cem = f"--planner cem {SEARCH} --set planner.num_elites=2"
    printed = run_apart(f"eval --env {ROOM} {model} --tasks room.json {cem} --video 1", tmp_path)
    assert "wrote out/Room-v0-cem-room/results.json and 1 video" in printed
    assert results(tmp_path, "out/Room-v0-cem-room")["summary"]["n"] == 3
    run(f"demo --env {ROOM} {model} --tasks room.json {cem}", tmp_path)
    assert (tmp_path / "out/demo-Room-v0/task-000.gif").exists()
    run(f"bench --env {ROOM} {model} {cem} --max-batch 1 --decisions 3", tmp_path)
    recording = "--out agent.h5 --episodes 1 --episode-env-steps 10 --image-size 32 --offset 5 --workers 2"
    elites = "--set planner.num_samples=6 --set planner.num_elites=2"
    run(f"collect --env {ROOM} {model} --policy cem {recording} {elites}", tmp_path)
    search = "--set planner.cem.num_samples=6 --set planner.cem.num_elites=2 --set planner.cem.iterations=2"
    mine = "--model mine=runs/room/checkpoint --tasks room.json"
    run(f"compare --env {ROOM} {mine} --planner cem {search} --jobs 2 --device cpu", tmp_path)
    cells = json.loads((tmp_path / "out/compare/results.json").read_text())["cells"]
    assert [cell["env"] for cell in cells if cell["model"] == "mine"] == [ROOM]
    printed = run(f"eval {model} --planner cem", tmp_path, code=2)
    assert "trained for Room-v0, which is not registered: pass --env MODULE:Room-v0" in printed
    printed = run("eval --env nowhere:Room-v0", tmp_path, code=2)
    assert "there is no module 'nowhere'" in printed
    printed = run(f"eval --tasks room.json {cem}", tmp_path, code=2)
    assert "env='Room-v0' is unknown: choose one of pusht" in printed


def test_the_environment_follows_from_the_checkpoint(tmp_path: Path) -> None:
    search = f"--planner cem {SEARCH} --set planner.num_elites=2"
    printed = run(f"eval --checkpoint cube-tiny {search} --tasks none.json", tmp_path, code=2)
    assert "none.json" in printed
    printed = run("bench --checkpoint cube-tiny --max-batch 1 --decisions 3 --no-plot", tmp_path)
    assert "out/bench-cube-guided/bench.json" in printed


def test_the_example_keeps_the_contract_of_gymnasium_and_of_goal_images(room: ModuleType) -> None:
    env = gym.make("Room-v0", render_mode="rgb_array", image_size=32)
    check_env(env.unwrapped, skip_render_check=True)
    observation, info = env.reset(seed=0)
    assert env.render().shape == (32, 32, 3)
    state = info["state"]
    _, _, _, _, first = env.step(np.array([1.0, -0.5], np.float32))
    env.reset(options={"state": state, "goal_state": info["goal_state"]})
    _, _, _, _, again = env.step(np.array([1.0, -0.5], np.float32))
    np.testing.assert_array_equal(first["state"], again["state"])
    assert env.unwrapped.errors(state, state) == {"distance": 0.0}
    assert (observation["pixels"] != observation["goal"]).any()


def test_its_tasks_are_not_solved_at_the_start(room: ModuleType) -> None:
    tasks = make_tasks(ROOM, 20, 5, seed=3)
    assert (tasks.env, tasks.env_id) == ("Room-v0", "Room-v0")
    env = gym.make("Room-v0")
    for task in tasks.tasks:
        _, info = env.reset(options=task.reset_options)
        assert not info["is_success"]


def test_tasks_may_set_what_the_base_class_takes(room: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    make_tasks(ROOM, 5, 2, seed=1).save(path)
    contents = json.loads(path.read_text())
    path.write_text(json.dumps({**contents, "env_kwargs": {"image_size": 32}}))
    assert TaskSet.load(path).env_kwargs == {"image_size": 32}
    path.write_text(json.dumps({**contents, "env_kwargs": {"size": 32}}))
    with pytest.raises(UserError, match=r"env_kwargs.size is unknown: choose from image_size, success"):
        TaskSet.load(path)


def test_names_from_files_import_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert spec_of(ROOM) is None
    assert name_of(ROOM) == ROOM
    assert "room" not in sys.modules


def test_registering_again_changes_nothing_and_another_is_refused(room: ModuleType) -> None:
    again = {"max_episode_steps": 100, "policies": {"play": room.Stroll}}
    register_env("Room-v0", room.RoomEnv, **again)
    with pytest.raises(UserError, match="env_id='Room-v0' is registered already"):
        register_env("Room-v0", room.RoomEnv, **{**again, "max_episode_steps": 50})
    with pytest.raises(UserError, match="env_id='CartPole-v1' is registered already"):
        register_env("CartPole-v1", room.RoomEnv, **again)
    assert find_env(ROOM) is find_env("Room-v0")


@pytest.mark.parametrize(
    ("env_id", "policies", "message"),
    [
        ("Room", "play", "env_id='Room' is no id of Gymnasium: write Name-v0"),
        ("room:Room-v0", "play", "is no id of Gymnasium"),
        ("Hall-v0", "walk", r"Hall-v0 has no policy 'play', only \['walk'\]"),
    ],
)
def test_what_cannot_be_registered_is_refused(env_id: str, policies: str, message: str, room: ModuleType) -> None:
    with pytest.raises(UserError, match=message):
        register_env(env_id, room.RoomEnv, max_episode_steps=9, policies={policies: room.Stroll})
    assert env_id not in ENVS


def test_policies_that_other_processes_cannot_import_are_refused(room: ModuleType) -> None:
    with pytest.raises(UserError, match="must be a class or a function of a module"):
        register_env("Hall-v0", room.RoomEnv, max_episode_steps=9, policies={"play": lambda rng: None})


def test_an_error_in_the_module_is_not_taken_for_its_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        find_env("broken:Room-v0")
    with pytest.raises(UserError, match=r"there is no module 'no.such'"):
        find_env("no.such:Room-v0")
