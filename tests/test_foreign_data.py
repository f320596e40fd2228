"""Data of other formats where a file of trajectories is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.cli import training as training_commands
from lwm_agent.cli.main import app
from lwm_agent.data.foreign import is_foreign, own_file
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.errors import UserError
from lwm_agent.training.config import HeadsConfig, TrainConfig

from .test_train import MODEL

LENGTHS = (41, 30, 35)


def robomimic(path: Path, cameras: tuple[str, ...] = ("front",)) -> Path:
    """Episodes of noise on 48-px frames, each with as many actions as frames."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number, length in enumerate(LENGTHS):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
            for camera in cameras:
                group[f"obs/{camera}"] = rng.integers(0, 255, (length, 48, 48, 3), dtype=np.uint8)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        frames = rng.integers(0, 255, (length, 48, 48, 3), dtype=np.uint8)
        np.savez(path / f"{number}.npz", pixels=frames, action=rng.uniform(-1, 1, (length, 2)))
    return path


def zarr(path: Path) -> Path:
    group = pytest.importorskip("zarr").open_group(str(path), mode="w")
    rng = np.random.default_rng(0)
    columns = {
        "data/img": rng.uniform(0, 255, (sum(LENGTHS), 48, 48, 3)).astype(np.float32),
        "data/action": rng.uniform(-1, 1, (sum(LENGTHS), 2)).astype(np.float32),
        "meta/episode_ends": np.cumsum(LENGTHS),
    }
    for name, array in columns.items():
        group.create_array(name, data=array)
    return path


KINDS = {"demos.hdf5": robomimic, "set": folder, "replay.zarr": zarr}


@pytest.mark.parametrize("name", KINDS)
def test_it_is_converted_once_beside_the_source(name: str, tmp_path: Path) -> None:
    source = KINDS[name](tmp_path / name)
    progress: list[tuple[int, int]] = []
    first = own_file(source, 32, lambda done, total: progress.append((done, total)))
    assert first.path == tmp_path / f"{name}.32px.h5"
    assert first.conversion is not None
    assert progress[-1] == (3, 3)
    data = Trajectories.open(first.path)
    assert (data.image_size, data.num_frames, data.num_episodes) == (32, sum(LENGTHS), 3)
    again = own_file(source, 32)
    assert (again.path, again.conversion) == (first.path, None)
    assert own_file(source, 16).path == tmp_path / f"{name}.16px.h5"
    assert own_file(first.path, 16).path == first.path  # a file of trajectories is used as it is


def test_a_source_that_changed_is_not_passed_over(tmp_path: Path) -> None:
    source = folder(tmp_path / "set")
    made = own_file(source, 32).path
    newer = made.stat().st_mtime + 10
    os.utime(source / "1.npz", (newer, newer))
    with pytest.raises(UserError, match=r"set\.32px\.h5 is older than .*set: remove it, and it is made again"):
        own_file(source, 32)


def test_choices_are_left_to_convert(tmp_path: Path) -> None:
    source = robomimic(tmp_path / "demos.hdf5", ("front", "wrist"))
    with pytest.raises(UserError) as caught:
        own_file(source, 32)
    message = str(caught.value)
    assert "has the cameras obs/front, obs/wrist: choose one with --camera" in message
    assert f"`lwm-agent convert {source} --camera NAME --image-size 32 --out {source}.32px.h5`" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos.hdf5"]


def test_what_is_no_other_format_is_left_to_the_reader(data: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.h5"
    with h5py.File(damaged, "w") as file:
        file["action"] = np.zeros((3, 2))
    (tmp_path / "text.h5").write_text("no data")
    (tmp_path / "empty").mkdir()
    for path in (Path(data), damaged, tmp_path / "text.h5", tmp_path / "empty", tmp_path / "nothing.h5"):
        assert not is_foreign(path)
        assert own_file(path, 32).path == path


def test_readers_of_trajectories_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder: .*`lwm-agent convert .*set --out .*set\.h5`"):
        Trajectories.open(folder(tmp_path / "set"))
    with pytest.raises(UserError, match=r"has no pixels.*`lwm-agent convert .*demos\.hdf5 --out .*demos\.h5`"):
        Trajectories.open(robomimic(tmp_path / "demos.hdf5"))


def test_train_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = robomimic(tmp_path / "demos.hdf5")
    sizes = [f"--set=model.{name}={value}" for name, value in {**MODEL, "frameskip": 2}.items()]
    options = ["--env", "mine", "--steps", "1", "--batch-size", "8", "--clip-length", "3", "--device", "cpu", *sizes]
    command = ["train", "--data", str(source), "--out", str(tmp_path / "run"), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "3 episodes, 106 frames, camera obs/front" in " ".join(done.output.split())
    trained = Checkpoint.load(tmp_path / "run" / "checkpoint")
    assert trained.training["data"] == [f"{source}.32px.h5"]
    heads = ["train-heads", "--checkpoint", str(tmp_path / "run" / "checkpoint"), "--data", str(source)]
    done = CliRunner().invoke(app, [*heads, "--steps", "1", "--batch-size", "8", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "was converted before" in " ".join(done.output.split())


def test_frames_are_as_large_as_the_model_takes_them(tmp_path: Path) -> None:
    common = {"data": ("x",), "out": str(tmp_path)}
    assert TrainConfig.from_preset("tiny", **common).image_size == 64
    assert TrainConfig.from_preset("base", **common).image_size == 224
    assert TrainConfig.from_preset("tiny", **common, model_settings={"image_size": 96}).image_size == 96
    assert TrainConfig.from_preset("tiny", **common, init="cube-tiny").image_size == 64
    assert HeadsConfig(checkpoint="pusht-tiny", data=("x",)).image_size == 64


def test_every_training_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted before anything else is done."""
    seen: list[tuple[tuple[str, ...], int]] = []

    class StopError(Exception):
        pass

    def stop(config: TrainConfig) -> None:
        seen.append((config.data, config.image_size))
        raise StopError

    monkeypatch.setattr(training_commands, "with_own_files", stop)
    checkpoint = ["--checkpoint", "pusht-tiny", "--data", "x", "--out", str(tmp_path / "out")]
    commands = [[name, *checkpoint] for name in ("train-heads", "train-predictor", "train-decoder")]
    commands += [["train-encoder", *checkpoint, "--shift", "blur=1"]]
    commands += [["train", "--data", "x", "--out", str(tmp_path / "out")]]
    commands += [["sweep", "--data", "x", "--out", str(tmp_path / "out"), "--each", "train.seed=0"]]
    for command in commands:
        with pytest.raises(StopError):
            CliRunner().invoke(app, command, catch_exceptions=False)
    assert seen == [(("x",), 64)] * 6
