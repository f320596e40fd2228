from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium.spaces import Box

from lwm_agent.errors import FileError, MachineError
from lwm_agent.eval import Episode, NoOpPolicy, Recorder, ReplayPolicy, TaskSet, evaluate, make_tasks, write_episode
from lwm_agent.eval.video import GREEN, RED, compose, draw_costs

SPACE = Box(-1.0, 1.0, (2,), np.float32)


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
        assert all(frame.shape == (336, 832, 3) for frame in frames)
        assert [_has(frame, GREEN) for frame in frames] == [False] * episode.steps_to_success + [True] * 11


def test_video_marks_a_failure_at_its_end(task_set: TaskSet, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, task_set, count=1)
    evaluate(NoOpPolicy(SPACE), task_set, indices=[0, 2], recorder=recorder)
    frames = _frames(recorder.path(0))
    assert len(frames) == 1 + task_set.budget_env_steps + 10
    assert [_has(frame, RED) for frame in frames] == [False] * task_set.budget_env_steps + [True] * 11


def test_recording_leaves_the_episodes_unchanged(task_set: TaskSet, tmp_path: Path) -> None:
    recorded = evaluate(ReplayPolicy(SPACE), task_set, recorder=Recorder(tmp_path, task_set, suffix=".gif"))
    plain = evaluate(ReplayPolicy(SPACE), task_set)
    assert [episode.final_errors for episode in recorded] == [episode.final_errors for episode in plain]
    assert len(list(tmp_path.glob("*.gif"))) == 3


def test_cost_curve_grows_with_the_plans() -> None:
    costs = [(0, 2.0), (5, 1.0), (10, 0.5)]
    inks = [int((np.asarray(draw_costs(costs, step, 20))[..., 0] < 100).sum()) for step in (1, 6, 11, 20)]
    assert inks[0] < inks[1] < inks[2] == inks[3]
    assert draw_costs([(0, 0.0)], 3, 20).shape == (256, 256, 3)  # a flat curve has a scale too


def test_recorder_plots_the_decisions_before_their_steps(task_set: TaskSet, tmp_path: Path) -> None:
    recorder: Any = Recorder(tmp_path, task_set, count=1)
    info = {"state": np.array(task_set.tasks[0].state)}
    recorder.record(0, info, None)
    for cost in (3.0, 2.0):
        recorder.record(0, info, SimpleNamespace(cost=cost))
        recorder.record(0, info, None)
    assert recorder._costs[0] == [(0, 3.0), (2, 2.0)]


def test_frame_has_three_panels() -> None:
    now, goal = np.full((256, 256, 3), 40, np.uint8), np.full((256, 256, 3), 90, np.uint8)
    frame = compose({"now": now, "goal": goal, "plan cost": draw_costs([], 0, 10)}, "task 0", None)
    assert (frame[48:304, 16:272] == 40).all()
    assert (frame[48:304, 288:544] == 90).all()


def test_video_refuses_unknown_formats(task_set: TaskSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"choose one of \.mp4, \.gif"):
        write_episode(tmp_path / "video.avi", [])
    with pytest.raises(ValueError, match=r"choose one of \.mp4, \.gif"):
        Recorder(tmp_path, task_set, suffix=".mov")


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
