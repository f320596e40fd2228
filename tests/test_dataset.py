from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from lwm_agent.data.clips import Mixture, Windows, shares
from lwm_agent.data.trajectories import DatasetError, Trajectories, all_actions, split
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
        path, env_id="Any-v0", env_kwargs={"b": 2}, action_low=[-99, -99], action_high=[99, 99]
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
    np.testing.assert_array_equal([data.action_low, data.action_high], [[-99, -99], [99, 99]])
    for got, expected in zip(data.episode(1)[:3], make_episode(13, 20), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("in_memory", [True, False])
def test_clips_are_aligned(path: Path, in_memory: bool) -> None:
    windows = Windows(Trajectories.open(path, in_memory), ALL, L, F)
    assert len(windows) == len(STARTS)
    pixels, env_action, state, *_ = windows.at(np.arange(len(windows)))
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


def test_all_actions_leave_out_the_last_row(path: Path) -> None:
    taken = np.array([*range(13, 32), *range(33, 37)])
    actions = all_actions(Trajectories.open(path), np.array([1, 2]))
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


def write(path: Path, lengths: tuple[int, ...] = (6, 5, 3, 9, 4), **settings: Any) -> None:
    """Episodes in three parts, with `BUFFER_FRAMES` 10; goes on with what is there."""
    with TrajectoryWriter(path, attributes={"seed": 3}, resume=True, **settings) as target:
        offsets = np.cumsum((0, *lengths))
        for index in range(target.num_episodes, len(lengths)):
            target.add(*make_episode(int(offsets[index]), lengths[index]))


def content(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        attributes = {f"@{name}": np.array(value) for name, value in file.attrs.items()}
        return {name: column[:] for name, column in file.items()} | attributes


def assert_same(first: Path, second: Path) -> None:
    a, b = content(first), content(second)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def die_at(place: int) -> None:
    """Ends this process without any clean-up at its `place`-th call that changes the disk; a write is done by half."""
    calls = count()

    def deadly(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == place:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(9)
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate", "chmod"):
        setattr(os, name, deadly(name))


def in_a_child(action: Callable[[], None]) -> int:
    """Exit status of a forked process that does `action`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it computes in one thread only
        process = os.fork()
    if process == 0:
        status = 1
        try:
            signal.alarm(60)
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("overwrite", [False, True])
def test_writer_killed_at_any_change_of_the_disk_resumes(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwm_agent.data.writer.BUFFER_FRAMES", 10)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time
    write(tmp_path / "whole.h5")
    for place in count(step=4 if overwrite else 1):
        path = tmp_path / str(place) / "mine.h5"
        if overwrite:
            write(path, (4, 4))

        def killed(path: Path = path, place: int = place) -> None:
            die_at(place)
            write(path, overwrite=overwrite)

        status = in_a_child(killed)
        if status == 9 and overwrite and not (path.parent / "mine.h5.partial").exists():
            assert Trajectories.open(path).lengths.tolist() in ([4, 4], [6, 5, 3, 9, 4])
        if overwrite or not path.exists():
            write(path, overwrite=overwrite)
        assert_same(tmp_path / "whole.h5", path)
        if status == 0:
            break
    assert place > 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_full_disk_is_an_error_that_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write it is that finds no more space, those of the final file among them."""
    monkeypatch.setattr("lwm_agent.data.writer.BUFFER_FRAMES", 10)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time
    write(tmp_path / "whole.h5")
    real, messages = os.write, set()
    for place in count():
        calls, path = count(), tmp_path / str(place) / "mine.h5"

        def full(descriptor: int, data: Any, calls: Any = calls, place: int = place) -> int:
            if next(calls) >= place:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", full)
        try:
            write(path)
            break
        except DatasetError as error:
            messages.add(re.sub(r"/\S*/", "", str(error)))
        finally:
            monkeypatch.setattr(os, "write", real)
        assert not path.exists()
        write(path)
        assert_same(tmp_path / "whole.h5", path)
    advice = "the disk is full: free space on it, or name a path on another disk"
    assert messages == {
        f"mine.h5 cannot be written: {advice}. {num} episodes are safe in mine.h5.partial: mend the cause and run the "
        "same command again, which goes on there"
        for num in (0, 2, 4, 5)
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("limit", [300, 3_000, 8_000])
def test_file_size_limit_is_no_crash(limit: int, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(DatasetError, match="takes no file of this size"):
            write(tmp_path / "mine.h5")

    assert in_a_child(limited) == 0


def flip_a_bit(path: Path, place: int = -100) -> None:
    image = bytearray(path.read_bytes())
    image[place] ^= 1
    path.write_bytes(image)


def interrupted_write(path: Path) -> list[Path]:
    target = TrajectoryWriter(path, attributes={"seed": 3})
    for offset, length in ((0, 6), (6, 5), (11, 3), (14, 9)):
        target.add(*make_episode(offset, length))
    target.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    return sorted(path.with_name("mine.h5.partial").glob("part-*"))


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink, lambda part: part.write_bytes(b"")])
def test_damaged_parts_are_written_again(
    damage: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwm_agent.data.writer.BUFFER_FRAMES", 10)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time
    write(tmp_path / "whole.h5")
    parts = interrupted_write(tmp_path / "mine.h5")
    assert len(parts) == 2
    damage(parts[0])
    with pytest.warns(UserWarning, match="part 0 is missing or damaged: episodes from number 0 on"):
        write(tmp_path / "mine.h5")
    assert_same(tmp_path / "whole.h5", tmp_path / "mine.h5")


def test_writer_refuses_a_damaged_partial_folder_and_a_second_writer(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    writers = [TrajectoryWriter(path), TrajectoryWriter(path, resume=True)]
    for target in writers:
        target.add(*make_episode(0, 13))
    writers[0].__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(DatasetError, match="another process"):
        writers[1].__exit__(None, None, None)
    partial = tmp_path / "mine.h5.partial"
    for damage in (
        lambda: (partial / "settings.json").write_text("{", encoding="utf-8"),
        (partial / "settings.json").unlink,
        lambda: (shutil.rmtree(partial), partial.write_bytes(b"hello")),
    ):
        damage()
        with pytest.raises(DatasetError, match="remove it and start again"):
            TrajectoryWriter(path, resume=True)


def test_writer_copies_what_it_is_given(tmp_path: Path) -> None:
    pixels, action, state, reward = (
        np.zeros((4, SIZE, SIZE, 3), np.uint8),
        np.zeros((3, A), np.float32),
        np.zeros((4, K)),
        np.zeros(3, np.float32),
    )
    with TrajectoryWriter(tmp_path / "mine.h5") as target:
        for value in range(5):
            for column in (pixels, action, state, reward):
                column[:] = value
            target.add(pixels, action, state, reward)
    data = Trajectories.open(tmp_path / "mine.h5")
    for value, episode in enumerate(map(data.episode, range(5))):
        for column in episode:
            assert column is not None
            assert (column == value).all()
    data.episode(0).pixels[:] = 9
    assert not data.episode(0).pixels.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action_low": [1, 0], "action_high": [1, 1]}, r"action_low\[0\]=1.0 must be below action_high\[0\]=1.0"),
        ({"action_low": [np.nan, 0], "action_high": [1, 1]}, "action_low=.*must be finite"),
        ({"action_low": [-1, 0], "action_high": [np.inf, 1]}, "action_high=.*must be finite: leave out"),
        ({"action_low": [-1], "action_high": [1, 1]}, "action_low has 1 numbers and action_high has 2"),
        ({"action_low": [-1, -1, -1], "action_high": [1, 1, 1]}, "have 3 numbers, and actions have 2"),
        ({"action_low": ["a"], "action_high": [1]}, "must be numbers"),
        ({"action_low": [[-1], [1, 2]], "action_high": [1]}, "must be numbers"),
        ({"action_low": [-1, -1]}, "belong together"),
        ({"env_kwargs": {"a": object()}}, "must fit in JSON"),
        ({"env_kwargs": [1]}, "env_kwargs=.* must map names"),
        ({"env_id": ""}, "env_id='' is no Gymnasium id"),
        ({"env_id": "lwm/PushT-v0", "env_kwargs": {"image_size": 64}}, "image_size=64, and the frames are 16 px"),
        ({"attributes": {"complete": 0}}, "'complete' belongs to the file format"),
        ({"attributes": {"seed": 2**64}}, "attribute seed=18446744073709551616 must be a finite number"),
        ({"attributes": {"seed": [1]}}, "must be a text or a number"),
        ({"discrete": "no"}, "discrete='no' must be True or False"),
    ],
)
def test_writer_refuses_declarations_that_cannot_be_right(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message), TrajectoryWriter(tmp_path / "mine.h5", **settings) as target:
        target.add(np.zeros((4, 16, 16, 3), np.uint8), np.zeros((3, 2)))
    assert not (tmp_path / "mine.h5").exists()


def test_actions_outside_of_the_declared_bounds_are_refused(tmp_path: Path) -> None:
    settings: Any = {"action_low": [-1, -1], "action_high": [1, 1], "env_kwargs": {"control_mode": "absolute"}}
    pixels, action = np.zeros((201, 16, 16, 3), np.uint8), np.zeros((200, 2))
    action[:4] = 1.5
    with TrajectoryWriter(tmp_path / "few.h5", **settings) as target:
        target.add(pixels, action)
    assert Trajectories.open(tmp_path / "few.h5").num_frames == 201
    action[4] = -1.5
    message = r"2.5% of the actions lie outside .* from \[-1.0, -1.0\] to \[1.0, 1.0\] \(control_mode: absolute\)"
    with pytest.raises(DatasetError, match=message), TrajectoryWriter(tmp_path / "many.h5", **settings) as target:
        target.add(pixels, action)
    target = TrajectoryWriter(tmp_path / "px.h5", **settings)
    with pytest.raises(DatasetError, match=r"episode 0: 100.0% of the actions"):
        target.add(pixels, np.full((200, 2), 300))
    with h5py.File(tmp_path / "few.h5", "r+") as file:
        file["action"][:200] = 300
    with pytest.raises(DatasetError, match=r"few.h5: 100.0% of the actions .*control_mode: absolute"):
        Trajectories.open(tmp_path / "few.h5")


@pytest.mark.parametrize("kind", ["folder", "file in the way", "link"])
def test_writer_refuses_places_that_it_cannot_write_to(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    if kind == "folder":
        path.mkdir()
    elif kind == "file in the way":
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "mine.h5"
    else:
        path.symlink_to(tmp_path / "store.h5")
        write(path, overwrite=True)
        assert path.is_symlink()
        assert Trajectories.open(path).num_episodes == 5
        return
    with pytest.raises(DatasetError, match="cannot be written"):
        TrajectoryWriter(path, overwrite=True)


def test_writer_without_episodes_writes_no_file(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no episode was added"), TrajectoryWriter(tmp_path / "mine.h5"):
        pass
    assert list(tmp_path.iterdir()) == []


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


def test_mixture_numbers_the_episodes_of_its_clips(tmp_path: Path) -> None:
    files = []
    for name, lengths in {"a": (5, 9), "b": (7, 3, 8)}.items():
        with TrajectoryWriter(tmp_path / f"{name}.h5") as writer:
            for episode, length in enumerate(lengths):
                value = len(files) * 2 + episode
                writer.add(np.full((length, 7, 7, 3), value, np.uint8), np.zeros((length - 1, 2), np.float32))
        files.append(Trajectories.open(tmp_path / f"{name}.h5"))
    mixture = Mixture([Windows(file, np.arange(file.num_episodes), 2, 1) for file in files])
    for part in (mixture, Mixture(mixture.windows[:1])):
        clips = part.sample(64, np.random.default_rng(0))
        episodes = part.episodes(64, np.random.default_rng(0))
        assert (episodes == clips.pixels[:, 0, 0, 0, 0]).all()
        assert len(set(episodes)) == (5 if part is mixture else 2)


def hostile(name: str, make: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    """Replaces a column by what `make` makes of the file."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            if name in file:
                del file[name]
            make(file)

    return damage


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return damage


def link(target: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("pixels", target)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((69, SIZE, SIZE, 3), np.uint8)
    layout[:] = h5py.VirtualSource("lost.h5", "pixels", (69, SIZE, SIZE, 3))
    file.create_virtual_dataset("pixels", layout)


def sparse(name: str, shape: tuple[int, ...], dtype: Any, **options: Any) -> Callable[[Path], None]:
    """A column of which nothing was ever written."""
    return hostile(name, lambda file: file.create_dataset(name, shape, dtype, **options))


def packed(name: str, rows: int) -> Callable[[Path], None]:
    """A column of a few kB that announces gigabytes in one chunk."""

    def make(file: h5py.File) -> None:
        file.create_dataset(name, (rows,), "i8", chunks=(rows,), compression="gzip")
        file[name].id.write_direct_chunk((0,), zlib.compress(bytes(2**20)))

    return hostile(name, make)


def flip_stored(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["state"].id.get_chunk_info(0).byte_offset
    flip_a_bit(path, place + 40)


FRAMES = (69, SIZE, SIZE, 3)
RAW = [("/etc/passwd", 0, 69 * SIZE * SIZE * 3)]
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "external link": (hostile("pixels", link(h5py.ExternalLink("other.h5", "/x"))), "pixels is a link to other.h5:/x"),
    "soft link": (hostile("pixels", link(h5py.SoftLink("/action"))), "pixels is a link to /action"),
    "external storage": (
        hostile("pixels", lambda file: file.create_dataset("pixels", FRAMES, np.uint8, external=RAW)),
        "pixels is stored in another file",
    ),
    "virtual": (hostile("pixels", virtual), "pixels is a virtual data set"),
    "group": (hostile("action", lambda file: file.create_group("action")), "action is a group, not a column"),
    "optional group": (hostile("state", lambda file: file.create_group("state")), "state is a group"),
    "never written": (sparse("pixels", FRAMES, np.uint8), "pixels announces 52992 bytes.* holds 0"),
    "chunks never written": (sparse("action", (69, A), "f4", chunks=(8, A)), "action announces 552 bytes"),
    "10^9 episodes": (sparse("ep_len", (10**9,), "i8", chunks=(1024,)), "ep_len announces 8000000000 bytes"),
    "10^9 frames": (sparse("pixels", (10**9, *FRAMES[1:]), "u1", chunks=(16, *FRAMES[1:])), "'pixels': 1000000000"),
    "packed": (packed("ep_len", 2**28), "ep_len announces 2147483648 bytes"),
    "texts": (rewrite("action", np.full((69, A), b"x")), r"action must be numbers, not \|S1"),
    "complex": (rewrite("action", np.zeros((69, A), complex)), "action must be numbers, not complex128"),
    "lengths in floats": (rewrite("ep_len", np.array([13.0, 20, 5, 31])), "ep_len must be whole numbers, not float64"),
    "null": (hostile("action", lambda f: f.create_dataset("action", data=h5py.Empty("f4"))), "must be numbers, not"),
    "number": (rewrite("ep_len", np.int64(3)), "ep_len must be a row of numbers"),
    "huge lengths": (rewrite("ep_len", np.array([2**62] * 4)), "do not cover"),
    "negative": (rewrite("ep_len", np.array([13, 20, -5, 41])), "do not cover"),
    "no actions": (rewrite("action", np.zeros((69, 0))), r"action must be \(N, A\), not \(69, 0\)"),
    "flat states": (rewrite("state", np.zeros(69)), r"state must be \(N, k\), not \(69,\)"),
    "NaN state": (rewrite("state", np.full((69, 2), np.nan)), "state has NaN or infinity in row 0"),
    "env_kwargs list": (attribute("env_kwargs", "[]"), r"env_kwargs='\[\]' must be a JSON object"),
    "env_kwargs no JSON": (attribute("env_kwargs", "{"), "env_kwargs='{' must be a JSON object"),
    "env_kwargs number": (attribute("env_kwargs", 3), "env_kwargs=.*3.* must be a JSON object"),
    "env_kwargs deep": (attribute("env_kwargs", "[" * 30_000), "must be a JSON object"),
    "env_id number": (attribute("env_id", 3), "env_id=.*3.* is no Gymnasium id"),
    "env_id script": (attribute("env_id", "<script>"), "env_id='<script>' is no Gymnasium id"),
    "bounds shape": (attribute("action_low", np.zeros((2, 2))), "action_low=.* must be numbers"),
    "bounds length": (attribute("action_low", [-1.0]), "action_low has 1 numbers and action_high has 2"),
    "bounds text": (attribute("action_low", "low"), "action_low='low' must be numbers"),
    "bounds swapped": (attribute("action_low", [100.0, 100.0]), "must be below action_high"),
    "bounds NaN": (attribute("action_low", [np.nan, 0.0]), "must be finite"),
    "discrete": (attribute("discrete", True), "discrete actions must be one-hot rows"),
    "discrete text": (attribute("discrete", "yes"), "discrete='yes' must be True or False"),
    "version": (attribute("schema_version", 2), "schema_version=.*2.* is not known here"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "a pipe, socket or device, name a regular file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder: .*lwm-agent convert .*data-converted.h5"),
    "flipped bit": (flip_stored, "damaged or cut short"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(path: Path, kind: str) -> None:
    damage, message = HOSTILE[kind]
    damage(path)
    with pytest.raises(DatasetError, match=message):
        Trajectories.open(path)


def test_file_that_another_process_holds_is_not_called_damaged(path: Path) -> None:
    script = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DatasetError, match="another process holds it: wait"):
            Trajectories.open(path)
        process.communicate(b"")


def test_rewards_are_sums_over_action_blocks(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "mine.h5") as target:
        for offset, length in zip(np.cumsum((0, *LENGTHS)), LENGTHS, strict=False):
            target.add(*make_episode(offset, length), reward=np.arange(offset, offset + length - 1))
    windows = Windows(Trajectories.open(tmp_path / "mine.h5"), ALL, L, F)
    reward = windows.at(np.arange(len(windows))).reward
    expected = [[sum(start + F * block + step for step in range(F)) for block in range(L - 1)] for start in STARTS]
    np.testing.assert_array_equal(reward, expected)
    with h5py.File(tmp_path / "mine.h5") as file:
        assert (file["reward"].shape, file["reward"].dtype) == ((69,), np.float32)
        np.testing.assert_array_equal(np.isnan(file["reward"]).nonzero()[0], np.cumsum(LENGTHS) - 1)


def test_hindsight_goals_follow_the_first_frame_of_their_clip(path: Path) -> None:
    windows = Windows(Trajectories.open(path), ALL, L, F)
    plain = windows.sample(3000, np.random.default_rng(0))
    clips = windows.sample(3000, np.random.default_rng(0), goals=True)
    for a, b in zip(plain[:3], clips[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (plain.goal, plain.goal_steps, plain.reward) == (None, None, None)
    assert clips.goal is not None
    assert clips.goal_steps is not None
    assert clips.goal.shape == (3000, SIZE, SIZE, 3)
    goal, first = clips.goal[:, 0, 0, 0].astype(int), clips.pixels[:, 0, 0, 0, 0].astype(int)
    ends, own = np.cumsum(LENGTHS), clips.goal_steps > 0
    episode, goal_episode = np.searchsorted(ends, first, "right"), np.searchsorted(ends, goal, "right")
    np.testing.assert_array_equal(goal[own], (first + clips.goal_steps)[own])
    np.testing.assert_array_equal(goal_episode[own], episode[own])
    assert (goal_episode[~own] != episode[~own]).all()
    assert (clips.goal_steps[~own] == -1).all()
    assert 0.02 < (~own).mean() < 0.1  # a tenth, but for those that drew their own trajectory
    reached = set(goal[own & (first == 38)].tolist())
    assert reached <= set(range(39, 69))
    assert len(reached) > 20
    mixed = Mixture([windows, windows]).sample(8, np.random.default_rng(0), goals=True, other_share=0)
    assert mixed.goal is not None
    assert mixed.goal_steps is not None
    np.testing.assert_array_equal(mixed.goal[:, 0, 0, 0], mixed.pixels[:, 0, 0, 0, 0] + mixed.goal_steps)
    last = Windows(Trajectories.open(path), ALL, 1, F).sample(500, np.random.default_rng(0), True, 0.0)
    assert last.goal_steps is not None
    assert last.goal_steps.min() == 0  # the last frame of an episode has no other
    with pytest.raises(ValueError, match="other_share=2 must be"):
        windows.sample(2, np.random.default_rng(0), True, 2)


def test_fingerprint_tells_contents_apart(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "copy.h5")
    data = Trajectories.open(path)
    prints = {Trajectories.open(tmp_path / "copy.h5", in_memory).fingerprint for in_memory in (True, False)}
    assert prints == {data.fingerprint}
    action, pixels = data.action.copy(), data.pixels.copy()
    action[5] += 1
    pixels[-1] += 1
    others = [replace(data, action=action), replace(data, pixels=pixels), replace(data, state=None)]
    others.append(replace(data, lengths=data.lengths[::-1].copy()))
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5
