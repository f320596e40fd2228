"""Training the predictor on while the encoder stays as it is."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filter of the data
import numpy as np
import pytest
import torch

from lwm_agent.checkpoint import Checkpoint, checksum
from lwm_agent.cli.settings import parse_settings
from lwm_agent.data.clips import Windows
from lwm_agent.data.trajectories import DatasetError, Trajectories
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.errors import DivergedError, UserError
from lwm_agent.models import Heads
from lwm_agent.models.predictors import ResidualMLP
from lwm_agent.training.config import HeadsConfig, PredictorConfig, TrainConfig
from lwm_agent.training.frozen_encoder import open_all
from lwm_agent.training.heads import train_heads
from lwm_agent.training.held_out import DataFile, follow_splits
from lwm_agent.training.latent_cache import OnProgress, encode
from lwm_agent.training.latent_clips import LatentMixture
from lwm_agent.training.predictor import evaluate_predictor, train_predictor
from lwm_agent.training.train import train

MODEL = {"latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1, "frameskip": 3, "image_size": 32}


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with heads, of a model that was trained for a moment."""
    out = tmp_path_factory.mktemp("trained")
    fixed = {"steps": 30, "batch_size": 16, "clip_length": 4, "device": "cpu", "learning_rate": 3e-3}
    checkpoint = train(TrainConfig.from_preset("tiny", data=(data,), out=str(out), model_settings=MODEL, **fixed))
    facts: dict[str, Any] = {"seconds": 60.0, "checkpoint": "c", "data": "d", "steps": 1, "seed": 0, "batch_size": 2}
    facts["validation"] = {"actor": 1.0}
    heads = Heads(latent_size=8, block_size=6, width=16, max_steps=4)
    checkpoint = replace(checkpoint, heads=heads, training={**checkpoint.training, "heads": facts})
    checkpoint.save(out / "headed", "")
    return out / "headed"


def config(checkpoint: Path, data: str | tuple[str, ...], out: Path, **settings: Any) -> PredictorConfig:
    files = (data,) if isinstance(data, str) else data
    fixed = {"steps": 120, "batch_size": 64, "clip_length": 4, "learning_rate": 3e-3, "device": "cpu"}
    return PredictorConfig(checkpoint=str(checkpoint), data=files, out=str(out), **{**fixed, **settings})


def test_trained_predictor_predicts_better_with_the_same_encoder(trained: Path, data: str, tmp_path: Path) -> None:
    after = train_predictor(config(trained, data, tmp_path / "after"))
    losses = after.training["predictor"]["validation"]
    assert losses["loss"] < 0.7 * losses["loss before"]
    old, new = Checkpoint.load(trained), Checkpoint.load(tmp_path / "after")
    changed = {
        name.split(".")[0]
        for name, weight in old.model.state_dict().items()
        if not torch.equal(weight, new.model.state_dict()[name])
    }
    assert changed == {"predictor"}
    assert not any(weight.requires_grad for weight in after.model.parameters())
    assert (trained / "heads.safetensors").read_bytes() == (tmp_path / "after" / "heads.safetensors").read_bytes()
    card = (tmp_path / "after" / "README.md").read_text()
    assert "lwm-agent train-predictor --checkpoint" in card
    assert "lwm-agent train-heads --checkpoint" in card


def test_new_predictor_replaces_the_old_one(trained: Path, data: str, tmp_path: Path) -> None:
    wanted = {"predictor": "mlp", "depth": 2, "residual": False}
    after = train_predictor(config(trained, data, tmp_path / "after", model_settings=wanted))
    losses = after.training["predictor"]["validation"]
    assert losses["loss"] < 0.9 * losses["loss before"]
    old, new = Checkpoint.load(trained), Checkpoint.load(tmp_path / "after")
    assert new.model_config == {**old.model_config, **wanted}
    assert isinstance(new.model.predictor, ResidualMLP)
    assert (new.model.predictor.residual, len(new.model.predictor.blocks)) == (False, 2)
    kept = {name: weight for name, weight in old.model.state_dict().items() if not name.startswith("predictor.")}
    assert kept
    for name, weight in kept.items():
        assert torch.equal(weight, new.model.state_dict()[name])
    card = (tmp_path / "after" / "README.md").read_text()
    assert "`predictor=mlp`" in card
    options = re.findall(r"--set (model\.[^\s`]+)", card.split("## Predictor")[1])
    assert parse_settings(options, ("model",)) == {"model": wanted}


def test_settings_of_other_parts_are_refused(trained: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.latent_size is not of the predictor: choose among predictor, history"):
        train_predictor(config(trained, data, tmp_path / "out", model_settings={"latent_size": 3}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"predictor": "rnn"}, "predictor='rnn' is unknown: choose one of transformer, mlp"),
        ({"depth": 0}, r"model\.depth=0 must be positive"),
        ({"residual": "yes"}, r"model\.residual='yes' must be bool"),
        ({"history": 4}, r"clip_length=4 must be at least 5 for this predictor"),
    ],
)
def test_impossible_predictor_is_refused_before_the_encoding(
    trained: Path, data: str, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_predictor(
            config(trained, data, tmp_path / "out", model_settings=model),
            lambda task, *_: pytest.fail(f"{task} before it was refused"),
        )


def test_card_lists_the_trainings_that_a_predictor_continues(trained: Path, data: str, tmp_path: Path) -> None:
    train_predictor(config(trained, data, tmp_path / "new", steps=2, model_settings={"predictor": "mlp"}))
    again = train_predictor(config(tmp_path / "new", data, tmp_path / "on", steps=3))
    assert again.training["predictor"]["before"]["model_settings"] == {"predictor": "mlp"}
    card = (tmp_path / "on" / "README.md").read_text()
    assert re.findall(r"train-predictor .*--steps (\d)", card) == ["2", "3"]
    assert (
        "before"
        not in train_predictor(
            config(tmp_path / "on", data, tmp_path / "newer", steps=2, model_settings={"predictor": "mlp"})
        ).training["predictor"]
    )


def test_equal_seeds_give_equal_weights(trained: Path, data: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    for name, seed in {"one": 0, "two": 0, "other": 1}.items():
        train_predictor(
            config(trained, data, tmp_path / name, steps=3, seed=seed),
            lambda task, done, total, _: seen.append((task, done, total)),
        )
    one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    assert {("encoding", 492, 492), ("training predictor", 3, 3)} <= set(seen)


@pytest.mark.parametrize("files", ["d", (), ("d", "e", "f")])
def test_data_are_a_tuple_of_files(files: Any) -> None:
    with pytest.raises(ValueError, match=r"data=.* must be a tuple of files, from one to batch_size=2"):
        PredictorConfig(checkpoint="c", data=files, batch_size=2)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch_size", -1), ("clip_length", 1)])
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be"):
        PredictorConfig(checkpoint="c", data=("d",), **{name: value})


def test_incompatible_data_are_refused(trained: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lower clip_length or frameskip"):
        train_predictor(config(trained, data, tmp_path / "out", clip_length=30))
    with TrajectoryWriter(tmp_path / "other.h5", env_id="lwm/Cube-v0") as writer:
        writer.add(torch.zeros(9, 32, 32, 3, dtype=torch.uint8).numpy(), torch.zeros(8, 2).numpy())
    with pytest.raises(DatasetError, match="was recorded in cube and the checkpoint was trained for pusht"):
        train_predictor(config(trained, str(tmp_path / "other.h5"), tmp_path / "out"))


@pytest.fixture(scope="module")
def still(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of three long episodes, in which nothing moves whatever is done."""
    path = tmp_path_factory.mktemp("still") / "still.h5"
    rng, frame = np.random.default_rng(0), Trajectories.open(data).frames(np.array([0]))
    with TrajectoryWriter(path) as writer:
        for _ in range(3):
            writer.add(frame.repeat(400, axis=0), rng.uniform(-1, 1, (399, 2)).astype(np.float32))
    return str(path)


def test_each_file_fills_the_same_share_of_a_batch(trained: Path, data: str, still: str, tmp_path: Path) -> None:
    alone, together = (
        train_predictor(config(trained, files, tmp_path / str(len(files)))) for files in ((data,), (data, still))
    )
    checkpoint, (moving, standing), device = open_all(config(trained, (data, still), tmp_path / "other"))
    latents = encode(checkpoint, [moving, standing], device, lambda *_: None)
    assert [len(part) for part in latents] == [moving.num_frames, standing.num_frames]
    sources = [
        LatentMixture([Windows(file, np.arange(file.num_episodes), 4, 3)], [part])
        for file, part in zip((moving, standing), latents, strict=True)
    ]
    before, one, both = (
        [evaluate_predictor(made, source)["loss"] for source in sources] for made in (checkpoint, alone, together)
    )
    assert both[1] < 0.5 * min(before[1], one[1])  # learned that nothing moves there
    assert both[0] < 0.7 * before[0]  # and the other too, though it is a third as long
    assert together.training["predictor"]["frames"] == moving.num_frames + standing.num_frames
    card = (tmp_path / "2" / "README.md").read_text()
    assert f"--data {data} --data {still} --steps 120 --seed 0 --set predictor.batch_size=64" in card


def test_actions_of_another_size_are_refused(trained: Path, tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "one.h5") as writer:
        writer.add(np.zeros((30, 32, 32, 3), np.uint8), np.zeros((29, 1), np.float32))
    with pytest.raises(DatasetError, match="has actions of 1 numbers and the checkpoint knows actions of 2 numbers"):
        train_predictor(config(trained, str(tmp_path / "one.h5"), tmp_path / "out"))


def changed(data: str, path: Path) -> str:
    """The data with one episode's pictures changed."""
    shutil.copy(data, path)
    with h5py.File(path, "r+") as file:
        file["pixels"][100:150] = 9
    return str(path)


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("part", ["predictor", "new predictor", "heads", "contrast", "contrast and heads"])
def test_interrupted_training_of_a_part_equals_an_uninterrupted_one(
    part: str, trained: Path, data: str, tmp_path: Path
) -> None:
    task_name = f"training {part.split()[-1]}"

    def stop_after(step: int) -> OnProgress:
        def report(task: str, done: int, total: int, text: str) -> None:
            if (task, done) == (task_name, step):
                raise InterruptError

        return report

    def run(name: str, on_progress: OnProgress | None = None, **settings: Any) -> Checkpoint:
        wanted: dict[str, Any] = {"steps": 45, "batch_size": 32, "save_every": 15, **settings}
        if "predictor" in part:
            wanted_data = wanted.pop("data", data)
            if part == "new predictor":
                wanted = {"model_settings": {"predictor": "mlp"}, **wanted}
            return train_predictor(config(trained, wanted_data, tmp_path / name, **wanted), on_progress)
        fixed = {"checkpoint": str(trained), "data": (data,), "out": str(tmp_path / name), "width": 16, "device": "cpu"}
        contrast = {"contrast_steps": 3 if "contrast" in part else 0}
        return train_heads(HeadsConfig(**{**fixed, **contrast, **wanted}), on_progress)

    run("whole")
    unfinished = tmp_path / f"cut.{part.split()[-1]}.unfinished"
    with pytest.raises(InterruptError):
        run("cut", stop_after(40))
    assert not (tmp_path / "cut").exists()
    assert (unfinished / "training.safetensors").exists()
    with pytest.raises(ValueError, match=r"cannot resume .*batch_size was 32 and is 31.*remove .*unfinished"):
        run("cut", batch_size=31)
    with pytest.raises(ValueError, match="steps was 45 and is 46"):
        run("cut", steps=46)
    with pytest.raises(ValueError, match=r"data was .* and is .*changed"):
        run("cut", data=(changed(data, tmp_path / "changed.h5"),))
    seen: list[tuple[int, str]] = []
    run(
        "cut",
        lambda task, done, total, text: seen.append((done, text[:9])) if task == task_name else None,
        data=(str(shutil.copy(data, tmp_path / "copy.h5")),),  # the same data, elsewhere
    )
    assert seen == [(30, "continued"), (40, seen[1][1]), (45, seen[2][1])]
    assert not list(tmp_path.glob("*.unfinished"))
    for name in ("model.safetensors", "heads.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def stop(task: str, done: int, total: int, text: str) -> None:
    if (task, done) == ("training predictor", 20):
        raise InterruptError


@pytest.mark.cuda
def test_interrupted_training_of_a_part_continues_on_cuda(trained: Path, data: str, tmp_path: Path) -> None:
    wanted = config(trained, data, tmp_path / "out", steps=25, save_every=10, device="cuda")
    with pytest.raises(InterruptError):
        train_predictor(wanted, stop)
    assert train_predictor(wanted).training["predictor"]["steps"] == 25


def test_interrupted_training_in_place_leaves_the_checkpoint_unchanged(
    trained: Path, data: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    shutil.copytree(trained, place)
    wanted: dict[str, Any] = {"steps": 25, "save_every": 10}
    with pytest.raises(InterruptError):
        train_predictor(replace(config(place, data, place, **wanted), out=None), stop)
    assert checksum(place) == checksum(trained)
    train_predictor(replace(config(place, data, place, **wanted), out=None))
    train_predictor(config(trained, data, tmp_path / "whole", **wanted))
    assert (place / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_a_frozen_encoder_reads_frames_from_the_disk(trained: Path, data: str, tmp_path: Path) -> None:
    _, (file,), _ = open_all(config(trained, data, tmp_path / "other"))
    assert isinstance(file.pixels, h5py.Dataset)  # in memory they would take 12 KiB each, and are wanted once


@pytest.mark.parametrize("part", ["predictor", "heads"])
def test_latents_on_disk_train_as_those_in_memory(part: str, trained: Path, data: str, tmp_path: Path) -> None:
    encoded = []

    def report(task: str, done: int, total: int, text: str) -> None:
        encoded.append(done if task == "encoding" else 0)

    def run(name: str, cache: str | None = None) -> list[bytes]:
        settings: dict[str, Any] = {"steps": 5, "batch_size": 16, "latent_cache": cache, "device": "cpu"}
        if part == "heads":
            train_heads(
                HeadsConfig(checkpoint=str(trained), data=(data,), out=str(tmp_path / name), **settings), report
            )
        else:
            train_predictor(config(trained, data, tmp_path / name, **settings), report)
        return [(tmp_path / name / f"{file}.safetensors").read_bytes() for file in ("model", "heads")]

    cache = str(tmp_path / "cache")
    assert run("memory") == run("disk", cache) == run("again", cache)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    assert not (tmp_path / "memory.latents").exists()
    assert "latent_cache" not in (tmp_path / "disk" / "README.md").read_text()
    with pytest.raises(ValueError, match="latent_cache='' must not be empty"):
        run("empty", "")


@pytest.mark.parametrize("part", ["predictor", "heads"])
def test_parts_hold_out_the_episodes_that_the_encoder_has_not_seen(
    part: str, trained: Path, data: str, tmp_path: Path
) -> None:
    other = changed(data, tmp_path / "other.h5")
    copy = str(shutil.copy(data, tmp_path / "copy.h5"))
    settings: dict[str, Any] = {"steps": 1, "batch_size": 16, "seed": 1, "validation": 0.25, "device": "cpu"}
    files, out = (data, copy, other), tmp_path / "out"
    if part == "heads":
        after = train_heads(HeadsConfig(checkpoint=str(trained), data=files, out=str(out), **settings))
    else:
        after = train_predictor(config(trained, files, out, **settings))
    splits = [(file["split_seed"], file["validation_share"]) for file in after.training[part]["data_files"]]
    assert splits == [(0, 0.05), (0, 0.05), (1, 0.25)]
    if part == "predictor":  # continued, it keeps the split of its own data too
        again = train_predictor(config(out, other, tmp_path / "again", **{**settings, "seed": 2}))
        assert again.training[part]["data_files"][0]["split_seed"] == 1
        anew = {"model_settings": {"predictor": "mlp"}, "seed": 2}
        new = train_predictor(config(out, other, tmp_path / "new", **{**settings, **anew}))
        assert new.training[part]["data_files"][0]["split_seed"] == 2


def test_records_of_version_0_1_tell_the_split_by_their_paths(data: str) -> None:
    file = Trajectories.open(data)
    part = HeadsConfig(checkpoint="c", data=(data,), seed=5)
    for record in ({"data": data, "seed": 3}, {"data": [data], "seed": 3, "set": {"batch_size": 7}}):
        assert follow_splits(record, [file], part)[0] == DataFile(data, file.fingerprint, 3, 0.05)
    changed_share = {"data": [data], "seed": 3, "set": {"validation": 0.5}}
    assert follow_splits(changed_share, [file], part)[0].validation_share == 0.5
    for odd in ({}, {"data": 7}, {"data_files": 7}, {"data_files": [7, {}]}, {"data": [data], "seed": "x"}):
        assert follow_splits(odd, [file], part)[0] == DataFile(data, file.fingerprint, 5, 0.05)


def test_other_data_under_the_same_path_do_not_continue_a_training(trained: Path, data: str, tmp_path: Path) -> None:
    path = shutil.copy(data, tmp_path / "data.h5")
    wanted = config(trained, str(path), tmp_path / "out", steps=25, save_every=10)
    with pytest.raises(InterruptError):
        train_predictor(wanted, stop)
    changed(data, tmp_path / "data.h5")
    with pytest.raises(UserError, match=r"cannot resume .*data.h5 holds other data than when the training began"):
        train_predictor(wanted, lambda task, *_: pytest.fail(f"{task} before it was refused"))


def test_diverged_training_of_a_part_is_named(trained: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"the gradient is not finite at step .*lower learning_rate"):
        train_predictor(config(trained, data, tmp_path / "out", learning_rate=1e30))
