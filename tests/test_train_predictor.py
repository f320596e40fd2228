"""Training the predictor on while the encoder stays as it is."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm_agent.checkpoint import Checkpoint, checksum
from lwm_agent.cli.settings import parse_settings
from lwm_agent.data.trajectories import DatasetError, Trajectories, Windows
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.models import Heads
from lwm_agent.models.predictors import ResidualMLP
from lwm_agent.training.config import HeadsConfig, PredictorConfig, TrainConfig
from lwm_agent.training.frozen_encoder import OnProgress, encode, open_all
from lwm_agent.training.heads import train_heads
from lwm_agent.training.predictor import evaluate_predictor, train_predictor
from lwm_agent.training.train import train

MODEL = {"latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1, "frameskip": 3, "image_size": 32}


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with heads, of a model that was trained for a moment."""
    out = tmp_path_factory.mktemp("trained")
    fixed = {"steps": 30, "batch_size": 16, "clip_length": 4, "device": "cpu", "learning_rate": 3e-3}
    checkpoint = train(TrainConfig.from_preset("tiny", data=(data,), out=str(out), model=MODEL, **fixed))
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


def test_it_predicts_better_and_sees_the_same(trained: Path, data: str, tmp_path: Path) -> None:
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


def test_a_new_predictor_takes_the_place_of_the_old(trained: Path, data: str, tmp_path: Path) -> None:
    wanted = {"predictor": "mlp", "depth": 2, "residual": False}
    after = train_predictor(config(trained, data, tmp_path / "after", model=wanted))
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
    assert "with a predictor of kind `mlp`" in card
    options = re.findall(r"--set (model\.[^\s`]+)", card.split("## Predictor")[1])
    assert parse_settings(options, ("model",)) == {"model": wanted}


def test_what_is_not_of_the_predictor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.latent_size is not of the predictor: choose among predictor, history"):
        PredictorConfig(checkpoint="c", data=("d",), model={"latent_size": 3})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"predictor": "rnn"}, "predictor='rnn' is unknown: choose one of transformer, mlp"),
        ({"history": 4}, r"model.history=4 must be less than clip_length=4"),
    ],
)
def test_a_predictor_that_cannot_be_trained_is_refused_at_once(
    trained: Path, data: str, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_predictor(
            config(trained, data, tmp_path / "out", model=model),
            lambda task, *_: pytest.fail(f"{task} before it was refused"),
        )


def test_what_was_trained_on_is_remembered(trained: Path, data: str, tmp_path: Path) -> None:
    train_predictor(config(trained, data, tmp_path / "new", steps=2, model={"predictor": "mlp"}))
    again = train_predictor(config(tmp_path / "new", data, tmp_path / "on", steps=3))
    assert again.training["predictor"]["before"]["model"] == {"predictor": "mlp"}
    card = (tmp_path / "on" / "README.md").read_text()
    assert re.findall(r"train-predictor .*--steps (\d)", card) == ["2", "3"]
    assert (
        "before"
        not in train_predictor(
            config(tmp_path / "on", data, tmp_path / "newer", steps=2, model={"predictor": "mlp"})
        ).training["predictor"]
    )


def test_same_seed_same_weights(trained: Path, data: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    for name, seed in {"one": 0, "two": 0, "other": 1}.items():
        train_predictor(
            config(trained, data, tmp_path / name, steps=3, seed=seed),
            lambda task, done, total, _: seen.append((task, done, total)),
        )
    one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    assert {("encoding", 492, 492), ("training", 3, 3)} <= set(seen)


@pytest.mark.parametrize("files", ["d", (), ("d", "e", "f")])
def test_data_are_a_tuple_of_files(files: Any) -> None:
    with pytest.raises(ValueError, match=r"data=.* must be a tuple of files, from one to batch_size=2"):
        PredictorConfig(checkpoint="c", data=files, batch_size=2)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch_size", -1), ("clip_length", 1)])
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be"):
        PredictorConfig(checkpoint="c", data=("d",), **{name: value})


def test_data_that_does_not_fit_is_refused(trained: Path, data: str, tmp_path: Path) -> None:
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
        (Windows(file, np.arange(file.num_episodes), 4, 3), part)
        for file, part in zip((moving, standing), latents, strict=True)
    ]
    before, one, both = (
        [evaluate_predictor(made, [source])["loss"] for source in sources] for made in (checkpoint, alone, together)
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


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("part", ["predictor", "new predictor", "heads"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    part: str, trained: Path, data: str, tmp_path: Path
) -> None:
    def stop_after(step: int) -> OnProgress:
        def report(task: str, done: int, total: int, text: str) -> None:
            if (task, done) == ("training", step):
                raise InterruptError

        return report

    def run(name: str, on_progress: OnProgress | None = None, **settings: Any) -> Checkpoint:
        wanted: dict[str, Any] = {"steps": 45, "batch_size": 32, "save_every": 15, **settings}
        if part != "heads":
            wanted_data = wanted.pop("data", data)
            if part == "new predictor":
                wanted = {"model": {"predictor": "mlp"}, **wanted}
            return train_predictor(config(trained, wanted_data, tmp_path / name, **wanted), on_progress)
        fixed = {"checkpoint": str(trained), "data": (data,), "out": str(tmp_path / name), "width": 16, "device": "cpu"}
        return train_heads(HeadsConfig(**{**fixed, **wanted}), on_progress)

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
    with pytest.raises(ValueError, match=r"data was .* and is .*copy"):
        run("cut", data=(str(shutil.copy(data, tmp_path / "copy.h5")),))
    seen: list[tuple[int, str]] = []
    run("cut", lambda task, done, total, text: seen.append((done, text[:8])) if task == "training" else None)
    assert seen == [(30, "going on"), (40, seen[1][1]), (45, seen[2][1])]
    assert not unfinished.exists()
    for name in ("model.safetensors", "heads.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def stop(task: str, done: int, total: int, text: str) -> None:
    if (task, done) == ("training", 20):
        raise InterruptError


@pytest.mark.cuda
def test_an_interrupted_training_goes_on_on_cuda(trained: Path, data: str, tmp_path: Path) -> None:
    wanted = config(trained, data, tmp_path / "out", steps=25, save_every=10, device="cuda")
    with pytest.raises(InterruptError):
        train_predictor(wanted, stop)
    assert train_predictor(wanted).training["predictor"]["steps"] == 25


def test_an_interrupted_training_in_place_leaves_the_checkpoint_as_it_was(
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
