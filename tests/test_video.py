"""Films of tasks: files, panels, what is drawn over and below them, and what is left alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium.spaces import Box

from lwm_agent import Agent
from lwm_agent.envs.shifts import shifted
from lwm_agent.errors import FileError, MachineError
from lwm_agent.eval import (
    Episode,
    NoOpPolicy,
    Recorder,
    ReplayPolicy,
    TaskSet,
    evaluate,
    make_tasks,
    shipped_tasks,
    write_episode,
)
from lwm_agent.eval.canvas import GREEN, RED, Graph, Panel, compose, draw_graphs, draw_search, draw_ways
from lwm_agent.eval.film import Film
from lwm_agent.eval.scenery import Scenery
from lwm_agent.eval.video import panels_of
from lwm_agent.insight import Insight, PlanInsight

from .commands import run

SPACE = Box(-1.0, 1.0, (2,), np.float32)
SEARCH = {"num_samples": 10, "num_elites": 4, "iterations": 3}


@pytest.fixture(scope="module")
def task_set() -> TaskSet:
    return make_tasks("pusht", 4, 3, seed=1)


def _frames(path: Path) -> list[np.ndarray]:
    return list(imageio.mimread(path, memtest=False))


def _has(frame: np.ndarray, color: str) -> bool:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(frame.astype(int) - rgb).max(-1) < 24).sum() > 500)


def test_recorder_writes_videos_of_the_first_tasks(task_set: TaskSet, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, task_set, count=2)
    episodes: list[Episode] = evaluate(ReplayPolicy(SPACE), task_set, recorder=recorder)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["task-000.mp4", "task-001.mp4"]
    for episode in episodes[:2]:
        frames = _frames(recorder.path(episode.index))
        assert episode.steps_to_success is not None
        assert len(frames) == 1 + episode.steps_to_success + 10
        assert all(frame.shape == (352, 560, 3) for frame in frames)  # now and goal: a replay has nothing else to tell
        assert [_has(frame, GREEN) for frame in frames] == [False] * episode.steps_to_success + [True] * 11


def test_video_marks_a_failure_at_its_end(task_set: TaskSet, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, task_set, count=1)
    evaluate(NoOpPolicy(SPACE), task_set, indices=[0, 2], recorder=recorder)
    frames = _frames(recorder.path(0))
    assert len(frames) == 1 + task_set.budget_env_steps + 10
    assert [_has(frame, RED) for frame in frames] == [False] * task_set.budget_env_steps + [True] * 11


def test_recording_leaves_the_episodes_unchanged(task_set: TaskSet, tmp_path: Path) -> None:
    agent = Agent.load("pusht-tiny", "policy", device="cpu")
    told = {"inspect": agent.insight, "words": "someone"}
    recorder = Recorder(tmp_path, task_set, suffixes=(".gif", ".mp4"), **told)  # type: ignore[arg-type]
    recorded = evaluate(agent, task_set, recorder=recorder)
    plain = evaluate(agent, task_set)
    assert [episode.final_errors for episode in recorded] == [episode.final_errors for episode in plain]
    assert len(list(tmp_path.glob("*.gif"))) == len(list(tmp_path.glob("*.mp4"))) == 3


def test_films_show_the_world_of_their_episode(task_set: TaskSet, tmp_path: Path) -> None:
    """Both are played at once, and drawn by one scenery."""
    recorder = Recorder(tmp_path, task_set, count=2)
    evaluate(
        NoOpPolicy(SPACE),
        task_set,
        indices=[0, 1],
        seed=3,
        wrap_env=lambda env: shifted(env, ["background-color=1"], "pusht"),
        recorder=recorder,
    )
    films = [np.stack(_frames(recorder.path(index))).astype(int) for index in (0, 1)]
    backgrounds = []
    for film in films:
        now, goal = panels_of(film)
        corners = np.concatenate([now[:, 16:24, 16:24].mean((1, 2)), goal[None, 16:24, 16:24].mean((1, 2))])
        assert np.abs(corners - corners[0]).max() < 12
        backgrounds.append(corners[0])
    usual = np.array([255, 255, 255])
    assert all(np.abs(one - other).max() > 40 for one, other in itertools.combinations([*backgrounds, usual], 2))


def told_by(agent: Agent, task_set: TaskSet, steps: int) -> tuple[Film, list[Insight]]:
    """A film of `steps` of the first task, and what the agent told."""
    env = gym.make(task_set.env_id, disable_env_checker=True)
    scenery = Scenery(task_set.env_id, {}, 256)
    observation, info = env.reset(options=task_set.tasks[0].reset_options)
    film, told, state = Film(scenery.view(info["goal_state"]), "task", "agent", scenery), [], None
    film.look(state=info["state"])
    for _ in range(steps):
        action, state = agent.predict(observation, state)
        told.append(agent.insight(state))
        film.explain(told[-1])
        observation, _, _, _, info = env.step(action)
        film.look(state=info["state"])
    return film, told


@pytest.mark.parametrize("env", ["pusht", pytest.param("cube", marks=pytest.mark.ogbench)])
def test_films_show_what_is_imagined_and_searched(env: str) -> None:
    from lwm_agent import make_planner

    agent = Agent.load(f"{env}-tiny", make_planner("cem", **SEARCH), keep_imagined=True, device="cpu", num_proposals=6)
    film, told = told_by(agent, shipped_tasks(env, "strict", "test", 25), 7)
    assert [insight.plan is not None for insight in told] == [True, *[False] * 4, True, False]
    assert [insight.distance is not None for insight in told] == [True, *[False] * 4, True, False]
    plan = told[0].plan
    assert plan is not None
    assert plan.pictures is not None
    actions = 2 if env == "pusht" else 5
    assert [tried.shape for tried in plan.search] == [(7, 5, 5, actions), *[(10, 5, 5, actions)] * 3]  # proposals first
    frames = [frame for frame, _ in film.frames(True)]
    assert all(frame.shape == (608, 1104, 3) for frame in frames)
    search = [frame[48:304, 832:1088] for frame in frames]
    green = [int(((each[..., 1] > each[..., 0].astype(int) + 40) & (each[..., 1] > 100)).sum()) for each in search]
    assert min(green) > 20  # elites
    assert (search[0] != search[4]).any()  # another round of the same plan
    imagined = [frame[48:304, 560:816] for frame in frames]
    assert (imagined[0] == imagined[4]).all()
    assert (imagined[0] != imagined[5]).any()  # the next plan


def test_the_simulated_way_of_a_plan_is_that_of_its_execution() -> None:
    """Replayed, a plan leads where the film says: to where the environment goes by the same actions."""
    task = shipped_tasks("pusht", "strict", "test", 25).tasks[5]
    scenery = Scenery("lwm/PushT-v0", {}, 64)
    actions = np.array(task.env_actions[:15], np.float32).reshape(3, 5, 2)
    outcome = scenery.outcome(np.array(task.state), actions)
    assert outcome.pictures.shape == (3, 64, 64, 3)
    env: Any = gym.make("lwm/PushT-v0", disable_env_checker=True)
    _, info = env.reset(options=task.reset_options)
    for step, action in enumerate(actions.reshape(-1, 2), 1):
        _, _, _, _, info = env.step(action)
        marks = env.unwrapped.landmarks(info["state"])
        assert {name: tuple(way[step]) for name, way in outcome.ways.items()} == marks
    steered = scenery.steered(np.array(task.state), actions[None])
    assert steered is not None
    np.testing.assert_allclose(steered[0], outcome.ways["agent"], atol=1e-9)
    assert (scenery.view(info["state"]) == outcome.pictures[-1]).all()


@pytest.mark.ogbench
def test_landmarks_of_the_cube_lie_on_what_they_name() -> None:
    task = shipped_tasks("cube", "strict", "test", 25).tasks[0]
    scenery = Scenery("lwm/Cube-v0", {}, 128)
    state = np.array(task.state)
    env: Any = gym.make("lwm/Cube-v0", image_size=128, disable_env_checker=True).unwrapped
    for seed in range(3):  # scenes whose gripper is in the air
        _, info = env.reset(seed=seed)
        x, y = env.landmarks(info["state"])["cube"]
        red, green, blue = env.view(info["state"])[int(128 * y), int(128 * x)].astype(int)
        assert red > max(green, blue) + 50
    actions = np.array(task.env_actions, np.float32).reshape(5, 5, 5)
    (steered,), way = scenery.steered(state, actions[None]), scenery.outcome(state, actions).ways["gripper"]  # type: ignore[misc]
    length = np.abs(np.diff(way, axis=0)).sum()
    assert np.linalg.norm(steered[-1] - way[-1]) < 0.5 * length


def plan_of(steps: int) -> Insight:
    return Insight(distance=1.0, surprise=0.5, plan=PlanInsight(1.0, 20.0, np.zeros((2, steps, 2), np.float32)))


def test_films_of_pictures_alone_have_no_privileged_parts() -> None:
    picture = np.full((32, 32, 3), 40, np.uint8)
    film = Film(picture, "task", "someone", None)
    for _ in range(3):
        film.look(picture=picture)
        film.explain(plan_of(3))
    frames = [frame for frame, _ in film.frames(None)]
    assert [frame.shape for frame in frames] == [(608, 560, 3)] * 3
    assert (frames[0][48:304, 16:272] == 40).all()


def test_a_film_may_be_explained_late_or_never() -> None:
    """All frames have one size, whenever the first insight comes."""
    picture = np.zeros((32, 32, 3), np.uint8)
    film = Film(picture, "task", "someone", None)
    for step in range(4):
        film.look(picture=picture)
        if step == 2:
            imagined = PlanInsight(1.0, 20.0, np.zeros((2, 3, 2), np.float32), np.zeros((2, 16, 16, 3), np.uint8))
            film.explain(Insight(plan=imagined))
    assert {frame.shape for frame, _ in film.frames(False)} == {(608, 832, 3)}
    silent = Film(picture, "task", "someone", None)
    silent.look(picture=picture)
    assert [(frame.shape, times) for frame, times in silent.frames(True, hold=7)] == [((352, 560, 3), 8)]


def test_graphs_grow_with_the_steps() -> None:
    graphs = [Graph("distance", [(0, 2.0), (5, 1.0), (10, 0.5)]), Graph("flat", [(0, 0.0)])]
    pictures = [draw_graphs(graphs, step, 20, (300, 200)) for step in (0, 5, 10, 20)]
    inks = [int((each[..., 0] < 100).sum()) for each in pictures]
    assert inks[0] < inks[1] < inks[2]
    assert (pictures[2] == pictures[3]).all()


def test_ways_are_drawn_where_they_lead() -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    way = np.array([[0.25, 0.5], [0.75, 0.5]])
    drawn = draw_ways(picture, {"agent": way}, 1, 64)
    rows, columns = np.nonzero((drawn != 255).any(-1))
    assert abs(rows.mean() - 32) < 1.5
    assert 12 <= columns.min() <= 17
    assert 47 <= columns.max() <= 52
    down = np.array([[0.5, 0.2], [0.5, 0.8]])
    searched = draw_search(np.zeros_like(picture), np.stack([down, way]), way, elites=1, size=64)
    assert (searched[20, 31:33, 1] > searched[20, 31:33, 0]).all()  # the elite is green
    assert (searched[2, 2] == 153).all()  # the picture is pale


def test_gifs_keep_the_colour_of_small_things(tmp_path: Path) -> None:
    """A red cube of 30 px before a magenta gripper and a wide blue floor with all its shades."""
    rng = np.random.default_rng(0)
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[...] = rng.integers(0, 80, (240, 320, 1)) + np.array([60, 90, 150])
    frame[50:90, 50:90] = rng.integers(0, 50, (40, 40, 1)) + np.array([180, 20, 180])
    frame[60:66, 60:65] = (220, 20, 20)
    write_episode(tmp_path / "film.gif", [frame, frame[::-1]])
    written = _frames(tmp_path / "film.gif")[0][..., :3].astype(int)
    assert np.abs(written[61:65, 61:64] - (220, 20, 20)).max() < 30
    assert np.abs(written - frame).mean() < 6


def test_frame_has_its_panels() -> None:
    now, goal = np.full((256, 256, 3), 40, np.uint8), np.full((64, 64, 3), 90, np.uint8)
    frame = compose([Panel(now, "now"), Panel(goal, "goal")], "task 0", "someone", None)
    assert (frame[48:304, 16:272] == 40).all()
    assert (frame[48:304, 288:544] == 90).all()


def test_record_writes_films_and_what_they_show(tmp_path: Path) -> None:
    make_tasks("pusht", 4, 5, seed=1).save(tmp_path / "short.json")
    search = "--set planner.num_samples=6 --set planner.num_elites=2 --set planner.iterations=1"
    tasks = "--tasks short.json --episodes 2 --first 3"
    printed = run(f"record --env pusht --planner guided {search} {tasks} --out videos", tmp_path)
    assert "of 2 tasks solved; wrote 4 films into videos" in printed
    names = {f"task-{task:03d}{suffix}" for task in (3, 4) for suffix in (".mp4", ".gif")}
    assert {path.name for path in (tmp_path / "videos").iterdir()} == names | {"films.json"}
    contents = json.loads((tmp_path / "videos" / "films.json").read_text())
    assert [film["task"] for film in contents["films"]] == [3, 4]
    assert contents["shows"] == "pusht-pixels: LeWorldModel, plans by GuidedCEM (6 candidates, 1 iteration)"
    assert contents["run"]["tasks"]["offset_env_steps"] == 4
    for film in contents["films"]:
        frames = [len(_frames(tmp_path / "videos" / name)) for name in film["files"]]
        assert frames[0] > 11
        assert 1 < frames[1] <= frames[0] - 10  # what stands still is one frame of a GIF
    printed = run("record --episodes 9 --first 195", tmp_path, code=2)
    assert "--first 195 --episodes 9: the tasks are 0 to 199" in printed


def test_video_refuses_unknown_formats(task_set: TaskSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"choose one of \.mp4, \.gif"):
        write_episode(tmp_path / "video.avi", [])
    with pytest.raises(ValueError, match=r"choose one of \.mp4, \.gif"):
        Recorder(tmp_path, task_set, suffixes=(".mp4", ".mov"))


def test_recorder_refuses_a_missing_ffmpeg_before_the_work(
    task_set: TaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    with pytest.raises(MachineError, match="pip install imageio-ffmpeg"):
        Recorder(tmp_path, task_set)
    assert list(tmp_path.iterdir()) == []


def test_recorder_refuses_a_folder_that_cannot_be_written(task_set: TaskSet, tmp_path: Path) -> None:
    (tmp_path / "videos").touch()
    with pytest.raises(FileError, match="videos"):
        Recorder(tmp_path / "videos", task_set)
