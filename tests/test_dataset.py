from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from lwm_agent.data import writer
from lwm_agent.data.trajectories import DatasetError, Mixture, Trajectories, Windows, shares, split, taken_actions
from lwm_agent.data.writer import TrajectoryWriter

LENGTHS = (13, 20, 5, 31)  # with L = 5 and F = 3 a clip spans 13 frames: 1, 8, 0 and 19 starts
STARTS = [0, *range(13, 21), *range(38, 57)]
ALL = np.arange(len(LENGTHS))
L, F, A, K, SIZE = 5, 3, 2, 7, 16


def make_episode(offset: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame, action and state all tell the row that they belong to."""
    rows = np.arange(offset, offset + length)
    pixels = np.broadcast_to(rows[:, None, None, None], (length, SIZE, SIZE, 3)).astype(np.uint8)
    return pixels, np.stack([rows[:-1], -rows[:-1]], axis=1), np.tile(rows[:, None], (1, K))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    with TrajectoryWriter(
        path, env_id="Any-v0", env_kwargs={"b": 2}, action_low=[-9, -9], action_high=[9, 9]
    ) as writer:
        for offset, length in zip(np.cumsum((0, *LENGTHS)), LENGTHS, strict=False):
            writer.add(*make_episode(offset, length))
    return path


def test_schema(path: Path) -> None:
    with h5py.File(path) as file:
        shapes = {name: (column.shape, column.dtype.name) for name, column in file.items()}
        np.testing.assert_array_equal(file["episode_idx"], np.repeat(range(4), LENGTHS))
        np.testing.assert_array_equal(file["step_idx"], np.concatenate([np.arange(length) for length in LENGTHS]))
        np.testing.assert_array_equal(np.isnan(file["action"][:, 0]).nonzero()[0], np.cumsum(LENGTHS) - 1)
    assert shapes == {
        "pixels": ((69, SIZE, SIZE, 3), "uint8"),
        "action": ((69, A), "float32"),
        "state": ((69, K), "float64"),
        "episode_idx": ((69,), "int64"),
        "step_idx": ((69,), "int64"),
        "ep_len": ((4,), "int64"),
        "ep_offset": ((4,), "int64"),
    }


@pytest.mark.parametrize("in_memory", [True, False, "auto"])
def test_open_and_episode(path: Path, in_memory: Any) -> None:
    calls: list[tuple[int, int]] = []
    data = Trajectories.open(path, in_memory, progress=lambda done, total: calls.append((done, total)))
    assert calls == ([] if in_memory is False else [(69, 69)])
    assert (data.num_frames, data.num_episodes, data.action_size, data.image_size) == (69, 4, A, SIZE)
    assert (data.env_id, data.env_kwargs) == ("Any-v0", {"b": 2})
    np.testing.assert_array_equal([data.action_low, data.action_high], [[-9, -9], [9, 9]])
    for got, expected in zip(data.episode(1), make_episode(13, 20), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("in_memory", [True, False])
def test_clips_are_aligned(path: Path, in_memory: bool) -> None:
    windows = Windows(Trajectories.open(path, in_memory), ALL, L, F)
    assert len(windows) == len(STARTS)
    pixels, env_action, state = windows.at(np.arange(len(windows)))
    frames = np.array(STARTS)[:, None] + F * np.arange(L)
    assert pixels.shape == (28, L, SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.broadcast_to(frames[..., None, None, None], pixels.shape))
    steps = frames[:, :-1, None] + np.arange(F)  # action f of block l leaves the f-th frame after frame l
    np.testing.assert_array_equal(env_action, np.stack([steps, -steps], axis=-1))  # and so none is NaN
    assert state is not None
    np.testing.assert_array_equal(state, np.tile(frames[..., None], (1, 1, K)))


def test_clips_come_from_the_given_episodes(path: Path) -> None:
    windows = Windows(Trajectories.open(path), np.array([0, 3]), L, F)
    first = windows.sample(500, np.random.default_rng(0)).pixels[:, 0, 0, 0, 0]
    assert set(first) == {0, *range(38, 57)}
    assert np.bincount(first).max() < 50  # uniform over starts, not over episodes: 25 each


def test_sampling_is_the_same_from_disk_and_memory(path: Path) -> None:
    clips = [
        Windows(Trajectories.open(path, in_memory), ALL, 2, 4).sample(11, np.random.default_rng(3))
        for in_memory in (True, False)
    ]
    for a, b in zip(*clips, strict=True):
        np.testing.assert_array_equal(a, b)


def test_single_frames(path: Path) -> None:
    clips = Windows(Trajectories.open(path), ALL, 1, F).at(np.arange(69))
    assert clips.env_action.shape == (69, 0, F, A)
    np.testing.assert_array_equal(clips.pixels[:, 0, 0, 0, 0], np.arange(69))


def test_windows_that_do_not_fit(path: Path) -> None:
    data = Trajectories.open(path)
    with pytest.raises(DatasetError, match=r"4 frames at frameskip 11 needs an episode of 34 .* these 4 has 31"):
        Windows(data, ALL, 4, 11)
    with pytest.raises(ValueError, match="frameskip=0"):
        Windows(data, ALL, 4, 0)


def test_split() -> None:
    train, val = split(40, 0.1, seed=5)
    assert (len(train), len(val)) == (36, 4)
    assert sorted([*train, *val]) == list(range(40))
    np.testing.assert_array_equal(val, split(40, 0.1, seed=5)[1])
    assert not np.array_equal(val, split(40, 0.1, seed=6)[1])
    assert [len(part) for part in split(2)] == [1, 1]
    with pytest.raises(ValueError, match="1 episodes"):
        split(1)


def test_taken_actions_leave_out_the_last_row(path: Path) -> None:
    taken = np.array([*range(13, 32), *range(33, 37)])
    actions = taken_actions(Trajectories.open(path), np.array([1, 2]))
    np.testing.assert_array_equal(actions, np.stack([taken, -taken], axis=1))


def test_a_mixture_gives_each_file_the_same_share(path: Path, tmp_path: Path) -> None:
    data = Trajectories.open(path)
    other = replace(data, action=data.action + 1000)
    few, many = Windows(data, np.array([2]), 2, 2), Windows(other, np.array([0, 1]), 2, 2)
    assert len(few) < len(many)
    clips = Mixture([few, many]).sample(9, np.random.default_rng(0))
    assert clips.pixels.shape[:2] == (9, 2)
    assert sorted(clips.env_action[:, 0, 0, 0] > 500) == [False] * 5 + [True] * 4
    mixed = Mixture([few, many]).sample(60, np.random.default_rng(0)).env_action[:, 0, 0, 0] > 500
    assert 0 < mixed[:40].mean() < 1  # who fits on the first two thirds of them
    assert 0 < mixed[40:].mean() < 1  # and tries it on the last third meets both files
    alone, same = few.sample(7, np.random.default_rng(1)), Mixture([few]).sample(7, np.random.default_rng(1))
    np.testing.assert_array_equal(alone.env_action, same.env_action)
    without = Windows(replace(data, state=None), np.array([2]), 2, 2)
    assert (clips.state is None) == (data.state is None)
    assert Mixture([few, without]).sample(4, np.random.default_rng(0)).state is None


def test_a_batch_is_shared_out_evenly() -> None:
    assert shares(10, 3) == [4, 3, 3]
    assert shares(9, 1) == [9]


@pytest.mark.parametrize("chunk", [1, 2, None])
@pytest.mark.parametrize("in_memory", [True, False])
def test_released_layout_loads(tmp_path: Path, chunk: int | None, in_memory: bool) -> None:
    """224 px, Blosc, no attributes, columns of other names, episodes stored in another order than listed."""
    path, size = tmp_path / "released.h5", 224
    pixels = np.random.default_rng(0).integers(0, 256, (24, size, size, 3), np.uint8)
    action = np.arange(48, dtype=np.float32).reshape(24, 2)
    action[[9, 23]] = np.nan
    with h5py.File(path, "w") as file:
        chunks = True if chunk is None else (chunk, size, size, 3)
        file.create_dataset("pixels", data=pixels, chunks=chunks, **hdf5plugin.Blosc())
        file["action"] = action
        file["ep_len"], file["ep_offset"] = np.array([14, 10], np.int32), np.array([10, 0])
        file["ep_idx"], file["proprio"], file["reward"] = np.zeros(24, np.int32), np.zeros((24, 4)), np.zeros(24)
    data = Trajectories.open(path, in_memory)
    assert (data.state, data.env_id, data.env_kwargs, data.action_low) == (None, None, {}, None)
    clips = Windows(data, np.array([0]), 4, 4).at(np.array([1]))
    np.testing.assert_array_equal(clips.pixels[0], pixels[[11, 15, 19, 23]])
    np.testing.assert_array_equal(clips.env_action[0].reshape(12, 2), action[11:23])
    assert clips.state is None


def rewrite(name: str, values: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            if values is not None:
                file[name] = values

    return damage


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_chunk(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["pixels"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)


def mark_incomplete(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False


def nan_inside(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["action"][17] = np.nan


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "does not exist$"),
    "partial only": (
        lambda path: path.rename(f"{path}.partial"),
        "h5.partial is incomplete: run the collect or convert",
    ),
    "not HDF5": (lambda path: path.write_text("hello"), "is not an HDF5 file"),
    "cut short": (cut_short, "damaged or cut short"),
    "bad chunk": (overwrite_chunk, "damaged or cut short"),
    "incomplete": (mark_incomplete, "is incomplete: run the collect or convert that wrote it again"),
    "no column": (rewrite("ep_len", None), "has no ep_len; it has action, ep_offset, episode_idx"),
    "lengths": (rewrite("action", np.zeros((68, 2))), "differ in length: .*'action': 68"),
    "pixels": (rewrite("pixels", np.zeros((69, 3, 16, 16), np.uint8)), r"pixels must be uint8 .* \(69, 3, 16, 16\)"),
    "action": (rewrite("action", np.zeros(69)), r"action must be \(N, A\)"),
    "episodes": (rewrite("ep_len", np.array([13, 20, 5, 30])), r"do not cover the 69 frames .* sum to 68"),
    "overlap": (rewrite("ep_offset", np.array([0, 12, 33, 38])), "do not cover"),
    "count": (rewrite("ep_len", np.array([38, 31])), "ep_offset has 4 episodes and ep_len has 2"),
    "NaN": (nan_inside, "NaN or infinity in row 17"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_bad_files_are_refused(path: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(path)
    with pytest.raises(DatasetError, match=message):
        Trajectories.open(path, in_memory=True)


def test_a_bad_chunk_is_found_when_read_from_disk(path: Path) -> None:
    overwrite_chunk(path)
    with pytest.raises(DatasetError, match="damaged or cut short"):
        Windows(Trajectories.open(path, in_memory=False), ALL, L, F).at(np.array([0]))


def test_writer_is_atomic_and_resumes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "data.h5"

    def interrupted() -> None:
        with TrajectoryWriter(path, attributes={"seed": 3}, resume=True) as writer:
            writer.add(*make_episode(0, 13))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not path.exists()
    with pytest.raises(DatasetError, match=r"other settings: seed is 3 there and 4 here"):
        TrajectoryWriter(path, attributes={"seed": 4}, resume=True)
    with pytest.raises(DatasetError, match="discrete is False there and True here"):
        TrajectoryWriter(path, attributes={"seed": 3}, discrete=True, resume=True)
    with TrajectoryWriter(path, attributes={"seed": 3}, resume=True) as writer:
        assert writer.num_episodes == 1
        writer.add(*make_episode(13, 20))
    assert [p.name for p in path.parent.iterdir()] == ["data.h5"]
    np.testing.assert_array_equal(Trajectories.open(path).episode(1).pixels, make_episode(13, 20)[0])
    with pytest.raises(DatasetError, match="exists already"):
        TrajectoryWriter(path)


@pytest.mark.parametrize("place", range(14))
def test_a_write_that_was_interrupted_is_done_again(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: each of two writes has seven columns."""
    monkeypatch.setattr("lwm_agent.data.writer.BUFFER_FRAMES", 10)
    episodes = [make_episode(10 * i, length) for i, length in enumerate((6, 5, 3, 9, 4))]
    write, calls = writer._write, count()

    def interrupted(*args: Any) -> None:
        if next(calls) == place:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(writer, "_write", interrupted)

    def begin() -> None:
        with TrajectoryWriter(tmp_path / "mine.h5") as first:
            for episode in episodes:
                first.add(*episode)

    with pytest.raises(KeyboardInterrupt):
        begin()
    with TrajectoryWriter(tmp_path / "mine.h5", resume=True) as second:
        assert second.num_episodes == (0 if place < 7 else 2)
        for episode in episodes[second.num_episodes :]:
            second.add(*episode)
    data = Trajectories.open(tmp_path / "mine.h5")
    assert data.lengths.tolist() == [6, 5, 3, 9, 4]
    for found, (pixels, action, state) in zip(map(data.episode, range(5)), episodes, strict=True):
        np.testing.assert_array_equal(found.pixels, pixels)
        np.testing.assert_array_equal(found.action, action)
        np.testing.assert_array_equal(found.state, state)


def test_writer_refuses_a_damaged_partial_file_and_a_second_writer(tmp_path: Path) -> None:
    path, partial = tmp_path / "data.h5", tmp_path / "data.h5.partial"
    writer = TrajectoryWriter(path)
    writer.add(*make_episode(0, 13))
    shutil.copy(partial, tmp_path / "empty")
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    second = TrajectoryWriter(path, resume=True)
    second.add(*make_episode(0, 13))
    shutil.copy(tmp_path / "empty", partial)
    with pytest.raises(DatasetError, match="another process"):
        second.__exit__(None, None, None)
    partial.write_text("hello")
    with pytest.raises(DatasetError, match="remove it and start again"):
        TrajectoryWriter(path, resume=True)


@pytest.mark.parametrize(
    ("pixels", "action", "state", "message"),
    [
        (np.zeros((4, 16, 16, 3), np.float32), np.zeros((3, 2)), None, "pixels must be uint8"),
        (np.zeros((4, 16, 16, 3), np.uint8), np.zeros((4, 2)), None, r"4 frames need actions \(3, A\)"),
        (np.zeros((4, 16, 16, 3), np.uint8), np.full((3, 2), np.nan), None, "NaN or infinity in row 0"),
        (np.zeros((4, 16, 16, 3), np.uint8), np.zeros((3, 2)), np.zeros((3, 2)), r"4 frames need states \(4, k\)"),
    ],
)
def test_writer_refuses_bad_episodes(tmp_path: Path, pixels: Any, action: Any, state: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        TrajectoryWriter(tmp_path / "data.h5").add(pixels, action, state)


def test_writer_refuses_episodes_of_another_shape(path: Path, tmp_path: Path) -> None:
    writer = TrajectoryWriter(tmp_path / "mixed.h5")
    pixels, action, state = make_episode(0, 5)
    writer.add(pixels, action, state)
    with pytest.raises(DatasetError, match="state"):
        writer.add(pixels, action)
    with pytest.raises(DatasetError, match=r"\(4, 3\)|\(3,\)"):
        writer.add(pixels, np.zeros((4, 3)), state)
