"""Conversion of data sets of other formats, on files of their real layouts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from lwm_agent.data.config import ConvertConfig
from lwm_agent.data.convert import convert
from lwm_agent.data.schema import DatasetError
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.errors import MachineError

from .commands import run

LENGTHS = (5, 7, 3)
HEIGHT, WIDTH, A = 32, 48, 3


def pictures(count: int, start: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Grey frames whose level says their number; the left and right sixth are white."""
    frames = np.full((count, height, width, 3), 255, np.uint8)
    frames[:, :, width // 6 : -width // 6] = (10 + 12 * (start + np.arange(count)))[:, None, None, None]
    return frames


def levels(data: Trajectories) -> np.ndarray:
    """The number that the middle of each frame shows."""
    middle = np.asarray(data.pixels[:, 8, 8, 0], float)
    return np.rint((middle - 10) / 12)


def numbers(count: int, start: int = 0) -> np.ndarray:
    return (start + np.arange(count))[:, None] + np.array([0.0, 0.25, 0.5])


def converted(source: Path | str, out: Path, **settings: Any) -> Trajectories:
    convert(ConvertConfig(source=str(source), out=out, image_size=16, **settings))
    return Trajectories.open(out)


def check(data: Trajectories, columns: slice | list[int] = slice(None)) -> None:
    """The frames and actions are those of episodes of `LENGTHS`, counted through."""
    assert data.lengths.tolist() == list(LENGTHS)
    np.testing.assert_array_equal(levels(data), np.arange(sum(LENGTHS)))
    assert (np.asarray(data.pixels) < 250).all()  # the white sides are cut off
    inside = ~np.isnan(data.action[:, 0])
    np.testing.assert_allclose(data.action[inside], numbers(sum(LENGTHS))[inside][:, columns], atol=1e-6)


def write_table(path: Path, columns: dict[str, Any]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


def write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, frames, plugin="FFMPEG", fps=10, codec="libx264", quality=10, macro_block_size=16)


def info(version: str, kind: str) -> dict[str, Any]:
    paths = {
        "v3.0": (
            "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        ),
        "v2.1": (
            "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        ),
    }
    camera = {"dtype": kind, "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    return {
        "codebase_version": version,
        "fps": 10,
        "chunks_size": 1000,
        "total_episodes": len(LENGTHS),
        "data_path": paths[version][0],
        "video_path": paths[version][1],
        "features": {
            "observation.image": camera,
            "observation.images.wrist": {**camera, "dtype": "video"},
            "observation.state": {"dtype": "float32", "shape": [2]},
            "action": {"dtype": "float32", "shape": [A]},
            "next.reward": {"dtype": "float32", "shape": [1]},
            "episode_index": {"dtype": "int64", "shape": [1]},
        },
    }


def rows(start: int, count: int, kind: str) -> dict[str, Any]:
    """Rows of a table as LeRobot writes them."""
    columns: dict[str, Any] = {
        "action": numbers(count, start).astype(np.float32).tolist(),
        "observation.state": (numbers(count, start)[:, :2] + 100).tolist(),
        "episode_index": [0] * count,
    }
    if kind == "image":
        cells = []
        for frame in pictures(count, start):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": "frame.png"})
        columns["observation.image"] = cells
    return columns


def lerobot(folder: Path, version: str, kind: str) -> Path:
    """Two episodes in the first file of version 3, one in the second; an episode a file in version 2."""
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info(version, kind)))
    starts = np.cumsum([0, *LENGTHS])
    if version == "v2.1":
        lines = [json.dumps({"episode_index": i, "tasks": [], "length": n}) for i, n in enumerate(LENGTHS)]
        (folder / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
        for i, n in enumerate(LENGTHS):
            write_table(folder / f"data/chunk-000/episode_{i:06d}.parquet", rows(int(starts[i]), n, kind))
            video = folder / f"videos/chunk-000/observation.image/episode_{i:06d}.mp4"
            write_video(video, pictures(n, int(starts[i])))
        return folder
    files = [(0, 12), (12, 3)]
    for number, (start, count) in enumerate(files):
        write_table(folder / f"data/chunk-000/file-{number:03d}.parquet", rows(start, count, kind))
        write_video(folder / f"videos/observation.image/chunk-000/file-{number:03d}.mp4", pictures(count, start))
    place = "videos/observation.image"
    episodes = {
        "episode_index": [0, 1, 2],
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
    }
    if kind == "video":
        episodes |= {f"{place}/chunk_index": [0, 0, 0], f"{place}/file_index": [0, 0, 1]}
        episodes |= {f"{place}/from_timestamp": [0.0, 0.5, 0.0]}  # type: ignore[dict-item]
    write_table(folder / "meta/episodes/chunk-000/file-000.parquet", episodes)
    return folder


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(version: str, kind: str, tmp_path: Path) -> None:
    source = lerobot(tmp_path / "set", version, kind)
    data = converted(source, tmp_path / "out.h5", camera="observation.image")
    check(data)
    assert data.state is not None
    np.testing.assert_allclose(data.state, numbers(sum(LENGTHS))[:, :2] + 100)


def test_the_command_says_what_was_left_out(tmp_path: Path) -> None:
    lerobot(tmp_path / "set", "v3.0", "video")
    printed = run("convert set --out out.h5 --camera observation.image --image-size 16 --action-columns 2 0", tmp_path)
    assert "3 episodes, 15 frames at 10 Hz, camera observation.image" in printed
    assert "left out: columns next.reward; cameras observation.images.wrist" in printed
    assert "--set model.frameskip=5" in printed
    check(Trajectories.open(tmp_path / "out.h5"), [2, 0])
    printed = run("convert set --out other.h5", tmp_path, code=2)
    assert "has the cameras observation.image, observation.images.wrist: choose one with --camera" in printed
    printed = run("convert set --out other.h5 --camera front", tmp_path, code=2)
    assert "has no camera 'front'" in printed
    printed = run("convert set --out other.h5 --camera observation.image --action-columns 3", tmp_path, code=2)
    assert "actions have the columns 0 to 2" in printed


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "floats", "unit"])
def test_diffusion_policys_zarr(kind: str, zipped: bool, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="zarr 3 is not installed")
    source = tmp_path / ("replay.zarr.zip" if zipped else "replay.zarr")
    store = zarr.storage.ZipStore(source, mode="w") if zipped else str(source)
    root = zarr.open_group(store, mode="w", zarr_format=2)
    frames: np.ndarray = pictures(sum(LENGTHS))
    frames = frames if kind == "bytes" else frames.astype(np.float32) / (255 if kind == "unit" else 1)
    columns = {"img": frames, "action": numbers(sum(LENGTHS)).astype(np.float32), "n_contacts": np.zeros((15, 1))}
    columns["state"] = np.arange(75.0).reshape(15, 5)
    for name, column in columns.items():
        root.create_array(f"data/{name}", data=column, chunks=(4, *column.shape[1:]))
    root.create_array("meta/episode_ends", data=np.cumsum(LENGTHS))
    if zipped:
        store.close()
    data = converted(source, tmp_path / "out.h5")
    check(data)
    assert data.state is not None
    np.testing.assert_array_equal(data.state, columns["state"])


def robomimic(path: Path) -> Path:
    starts = np.cumsum([0, *LENGTHS])
    with h5py.File(path, "w") as file:
        order = (0, 2, 10)  # demo_10 comes after demo_2
        for number, (index, length) in enumerate(zip(order, LENGTHS, strict=True)):
            group = file.create_group(f"data/demo_{index}")
            group["actions"] = numbers(length, int(starts[number]))
            group["states"] = np.ones((length, 4))
            group["obs/agentview_image"] = pictures(length, int(starts[number]))
            group["obs/robot0_eef_pos"] = np.zeros((length, 3))
            group["next_obs/agentview_image"] = pictures(length, 1)
    return path


def minari(folder: Path, discrete: bool = False) -> Path:
    (folder / "data").mkdir(parents=True)
    starts = np.cumsum([0, *LENGTHS])
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        for index, length in enumerate(LENGTHS):
            group = file.create_group(f"episode_{index}")
            group["actions"] = np.arange(length - 1) % 4 if discrete else numbers(length, int(starts[index]))[:-1]
            group["observations"] = pictures(length, int(starts[index]))
            group["rewards"] = np.zeros(length - 1)
    return folder


def test_robomimic(tmp_path: Path) -> None:
    data = converted(robomimic(tmp_path / "demos.hdf5"), tmp_path / "out.h5")
    check(data)
    assert data.state is not None
    assert data.state.shape == (15, 4)


def test_minari(tmp_path: Path) -> None:
    check(converted(minari(tmp_path / "door"), tmp_path / "out.h5"))


def test_discrete_actions_of_minari_are_one_hot(tmp_path: Path) -> None:
    data = converted(minari(tmp_path / "maze", discrete=True), tmp_path / "out.h5")
    assert data.discrete
    np.testing.assert_array_equal(data.action[:4], np.eye(4))


def test_links_out_of_a_file_are_not_followed(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "demos.hdf5")
    robomimic(tmp_path / "secret.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/agentview_image"]
        file["data/demo_0/obs/agentview_image"] = h5py.ExternalLink("secret.hdf5", "data/demo_0/obs/agentview_image")
    with pytest.raises(DatasetError, match="has no pictures"):
        converted(path, tmp_path / "out.h5")


def folder(place: Path, kind: str) -> Path:
    place.mkdir()
    starts = np.cumsum([0, *LENGTHS])
    for index, length in enumerate(LENGTHS):
        frames, action = pictures(length, int(starts[index])), numbers(length, int(starts[index]))
        name = place / f"run-{index}"
        if kind == "npz":
            np.savez(name, pixels=frames, action=action[:-1], note=np.zeros(2))
            continue
        write_video(name.with_suffix(".mp4"), frames)
        if kind == "npy":
            np.save(name, action)
        else:
            np.savetxt(name.with_suffix(".csv"), action, delimiter=",")
    return place


@pytest.mark.parametrize("kind", ["npz", "npy", "csv"])
def test_folders(kind: str, tmp_path: Path) -> None:
    check(converted(folder(tmp_path / "runs", kind), tmp_path / "out.h5"))


def test_pictures_are_squeezed_where_that_is_asked_for(tmp_path: Path) -> None:
    data = converted(folder(tmp_path / "runs", "npz"), tmp_path / "out.h5", squash=True)
    assert (np.asarray(data.pixels[:, :, 0]) == 255).all()  # the white side is there


def test_episodes_of_one_frame_are_left_out(tmp_path: Path) -> None:
    source = folder(tmp_path / "runs", "npz")
    np.savez(source / "still.npz", pixels=pictures(1), action=np.zeros((0, A)))
    outcome = convert(ConvertConfig(source=str(source), out=tmp_path / "out.h5"))
    assert outcome.left_out == ("arrays note", "1 episodes of a single frame")
    assert outcome.num_frames == 15


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "run-1.csv").unlink(), r"run-1\.mp4 has no run-1\.npy or run-1\.csv"),
        (lambda f: (f / "run-1.csv").write_text("a,b"), r"run-1\.csv cannot be read"),
        (lambda f: (f / "run-1.csv").write_text("1,2,3\n"), "episode 2 has 7 frames and 1 actions"),
        (lambda f: (f / "run-1.mp4").write_bytes(b"film"), r"run-1\.mp4 cannot be decoded"),
        (lambda f: np.savez(f / "x.npz", a=np.zeros(2)), r"has episodes as \.mp4 and as \.npz"),
    ],
)
def test_damaged_folders_are_refused(damage: Any, message: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "runs", "csv")
    damage(source)
    with pytest.raises(DatasetError, match=message):
        converted(source, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "meta/info.json").write_text("{"), r"info\.json is damaged"),
        (lambda f: (f / "meta/info.json").write_text(json.dumps({**info("v3.0", "video"), "codebase_version": "v1.6"})),
         r"version v1\.6 is not known"),
        (lambda f: (f / "data/chunk-000/file-001.parquet").write_bytes(b"PAR1"), r"file-001\.parquet cannot be read"),
        (lambda f: (f / "data/chunk-000/file-001.parquet").unlink(), r"file-001\.parquet cannot be read"),
        (lambda f: (f / "videos/observation.image/chunk-000/file-001.mp4").unlink(), r"file-001\.mp4 is missing"),
        (lambda f: write_video(f / "videos/observation.image/chunk-000/file-001.mp4", pictures(2)), "has fewer frames"),
        (lambda f: write_table(f / "data/chunk-000/file-001.parquet", rows(12, 1, "video")), "ends within an episode"),
        (lambda f: (f / "meta/episodes/chunk-000/file-000.parquet").unlink(), r"has no meta/episodes\.jsonl"),
    ],
)  # fmt: skip
def test_damaged_lerobot_sets_are_refused(damage: Any, message: str, tmp_path: Path) -> None:
    source = lerobot(tmp_path / "set", "v3.0", "video")
    damage(source)
    with pytest.raises(DatasetError, match=message):
        converted(source, tmp_path / "out.h5", camera="observation.image")
    assert not (tmp_path / "out.h5").exists()


def test_what_is_of_no_known_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(DatasetError, match=r"of no format that is known: LeRobot .*TrajectoryWriter"):
        converted(tmp_path / "notes", tmp_path / "out.h5")
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        converted("nowhere", tmp_path / "out.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DatasetError, match="has no groups data/demo_0 or episode_0 with actions: it has x"):
        converted(tmp_path / "other.h5", tmp_path / "out.h5")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lerobot(tmp_path / "set", "v3.0", "video")
    (tmp_path / "replay.zarr").mkdir()
    for module, path in (("pyarrow.parquet", source), ("zarr", tmp_path / "replay.zarr")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MachineError, match=r"pip install '(pyarrow|zarr|lwm-agent)"):
            converted(path, tmp_path / "out.h5", camera="observation.image")
