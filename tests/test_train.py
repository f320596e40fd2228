"""Training: it goes on exactly where it stopped, it recalibrates, and it says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import h5py
import hdf5plugin  # noqa: F401  registers the filter of the data
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.data.clips import Mixture, Windows
from lwm_agent.data.trajectories import DatasetError, Trajectories, split
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.errors import UserError
from lwm_agent.eval.accounting import training_seconds
from lwm_agent.model_card import hardware
from lwm_agent.models import MODELS, Decoder, LeWorldModel, ModelSpec
from lwm_agent.protocols import Batch
from lwm_agent.training.batches import to_batch
from lwm_agent.training.config import TrainConfig
from lwm_agent.training.metric_log import MetricLog
from lwm_agent.training.schedule import learning_rate_factor
from lwm_agent.training.setup import fit_normalizer
from lwm_agent.training.train import Progress, train
from lwm_agent.training.validation import recalibrate_batch_norm, validate

MODEL: dict[str, Any] = {
    "image_size": 32,
    "latent_size": 8,
    "width": 16,
    "head_size": 4,
    "mlp_size": 16,
    "depth": 1,
    "sigreg_directions": 16,
    "dropout": 0.1,  # so that its random numbers must be resumed too
}


def config(data: str | tuple[str, ...], out: Path, **settings: Any) -> TrainConfig:
    fixed = {
        "steps": 6,
        "batch_size": 8,
        "clip_length": 4,
        "validate_every": 3,
        "save_every": 2,
        "log_every": 1,
        "device": "cpu",
    }
    model = {**MODEL, **settings.pop("model_settings", {})}
    files = (data,) if isinstance(data, str) else data
    return TrainConfig.from_preset(
        "tiny", **{**fixed, "out": str(out), "model_settings": model, "data": files, **settings}
    )


@pytest.fixture(autouse=True)
def _small_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a few steps spend nearly all their time on it."""
    monkeypatch.setattr("lwm_agent.training.train.validate", partial(validate, num_clips=64))
    monkeypatch.setattr(
        "lwm_agent.training.train.recalibrate_batch_norm", partial(recalibrate_batch_norm, num_batches=3)
    )


def losses(out: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train/loss" in line]


class InterruptError(Exception):
    pass


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_resumed_training_equals_an_uninterrupted_one(data: str, tmp_path: Path) -> None:
    def stop_after_five(progress: Progress) -> None:
        if progress.step == 5:  # one step after the last save
            raise InterruptError

    train(config(data, tmp_path / "whole"))
    with pytest.raises(InterruptError):
        train(config(data, tmp_path / "broken"), on_step=stop_after_five)
    train(config(data, tmp_path / "broken"), resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert [line["step"] for line in losses(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    whole, broken = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


class RankedFabric(Fabric):
    """One process that takes itself for that of number `rank`."""

    rank = 0

    @property
    def global_rank(self) -> int:
        return self.rank


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_processes_share_directions_but_neither_clips_nor_dropout(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips: dict[int, list[bytes]] = {}
    seeds: dict[int, list[int]] = {}
    directions: dict[int, list[int]] = {}
    real = LeWorldModel.loss

    def loss(self: LeWorldModel, batch: Batch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        if self.training and generator is not None:
            clips.setdefault(RankedFabric.rank, []).append(batch.actions.numpy().tobytes())
            seeds.setdefault(RankedFabric.rank, []).append(torch.initial_seed())
            directions.setdefault(RankedFabric.rank, []).append(generator.initial_seed())
        return real(self, batch, generator)

    monkeypatch.setattr(LeWorldModel, "loss", loss)
    monkeypatch.setattr("lwm_agent.training.train.Fabric", RankedFabric)
    for rank in (0, 1):
        monkeypatch.setattr(RankedFabric, "rank", rank)
        train(config(data, tmp_path / str(rank), steps=2))
    assert directions[0] == directions[1]
    for drawn in (clips, seeds, directions):
        assert len({*drawn[0]}) == len(drawn[0]) == 2  # each step draws anew
    assert not {*clips[0]} & {*clips[1]}
    assert len({*seeds[0], *seeds[1], *directions[0]}) == 6


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_probes_are_known_by_id_and_need_their_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with TrajectoryWriter(tmp_path / "agent.h5", env_id="lwm/PushT-v0", env_kwargs={"image_size": 32}) as writer:
        for _ in range(4):
            pixels = rng.integers(0, 255, (30, 32, 32, 3), dtype=np.uint8)
            writer.add(pixels, rng.uniform(-1, 1, (29, 2)).astype(np.float32), rng.uniform(0, 512, (30, 2)))
    trained = train(config(str(tmp_path / "agent.h5"), tmp_path / "run", env="lwm/PushT-v0", steps=1))
    scores = {name for name in trained.training["validation"] if "r2_" in name}
    assert scores == {"r2_agent", "kernel_r2_agent"}


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_training_leaves_a_checkpoint_that_says_where_it_comes_from(data: str, tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(config(data, tmp_path / "run"), on_step=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    checkpoint = Checkpoint.load(tmp_path / "run" / "checkpoint")
    assert checkpoint.env == "pusht"
    assert checkpoint.env_kwargs == {"control_mode": "relative", "image_size": 32, "look": "plain"}
    assert {"r2_agent", "effective_rank", "prediction"} <= checkpoint.training["validation"].keys()
    assert checkpoint.normalizer.action_std == pytest.approx((2 / 3**0.5,) * 2, rel=0.2)
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "lwm-agent train --env pusht --model lewm --preset tiny" in card
    assert "effective_rank" in card
    assert f"| hardware | {hardware(torch.device('cpu'))} |" in card
    precision = checkpoint.training["precision"]
    assert precision in ("bf16-mixed", "32-true")
    assert f"--precision {precision} --set train.batch_size=8 --set train.clip_length=4 --set train.log_every=1" in card
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_metrics_are_logged_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_agent.training.metric_log.find_spec", lambda name: None)
    with MetricLog(tmp_path, {}, 0, track=False, enabled=True) as log:
        log.write(1, "train", {"loss": 0.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "train/loss": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def still(path: Path, image_size: int = 32, action_size: int = 2, **bounds: Any) -> str:
    """A file of 6 episodes of bright pictures in which nothing moves, actions of 5 or -5."""
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path, env_id="lwm/PushT-v0", env_kwargs={"image_size": image_size}, **bounds) as writer:
        for _ in range(6):
            pixels = np.full((31, image_size, image_size, 3), 250, np.uint8)
            writer.add(pixels, rng.choice(np.float32([5, -5]), (30, action_size)), np.ones((31, 7)))
    return str(path)


def test_bounds_are_those_of_the_data_within_those_of_the_environment(tmp_path: Path) -> None:
    action = np.random.default_rng(0).uniform([-1, -5], [2, 3], (200, 2))
    action[:2], action[2:4] = 5, [-1, -5]
    with TrajectoryWriter(tmp_path / "clipped.h5", action_low=[-1, -9], action_high=[2, 3]) as writer:
        for _ in range(2):
            writer.add(np.zeros((201, 16, 16, 3), np.uint8), action)
    normalizer = fit_normalizer([Trajectories.open(tmp_path / "clipped.h5")], [np.arange(2)])
    assert (normalizer.action_low, normalizer.action_high) == ((-1, -5), (2, 3))


def test_pixel_statistics_are_those_of_each_colour_on_the_scale_of_one(tmp_path: Path) -> None:
    """Half of the frames are dark and half are bright, in every episode."""
    pixels = np.empty((30, 32, 32, 3), np.uint8)
    pixels[::2], pixels[1::2] = (51, 102, 0), (153, 204, 255)
    with TrajectoryWriter(tmp_path / "colours.h5", env_id="lwm/PushT-v0", env_kwargs={"image_size": 32}) as writer:
        for _ in range(6):
            writer.add(pixels, np.random.default_rng(0).uniform(-1, 1, (29, 2)), np.ones((30, 7)))
    normalizer = fit_normalizer([Trajectories.open(tmp_path / "colours.h5")], [np.arange(5)])
    assert normalizer.pixel_mean == pytest.approx((0.4, 0.6, 0.5), abs=1e-6)
    assert normalizer.pixel_std == pytest.approx((0.2, 0.2, 0.5), abs=2e-3)  # a little is added: never zero


def test_files_whose_actions_have_different_units_are_refused(tmp_path: Path) -> None:
    paths = still(tmp_path / "px.h5"), still(tmp_path / "unit.h5", action_low=[-9, -9], action_high=[9, 9])
    files = [Trajectories.open(path) for path in paths]
    files[1] = replace(files[1], action=files[1].action / 5, action_low=np.full(2, -1.0), action_high=np.full(2, 1.0))
    with pytest.raises(DatasetError, match=r"50.0% of the actions lie outside .*control_mode"):
        fit_normalizer(files, [np.arange(6)] * 2)
    files[0] = replace(files[0], action=np.where(np.isnan(files[0].action), np.nan, np.float32(0.5)))
    with pytest.raises(DatasetError, match="actions 0, 1 never change"):
        fit_normalizer(files[:1], [np.arange(6)])


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_gradients_are_clipped_and_weights_decay(data: str, tmp_path: Path) -> None:
    """Clipped to next to nothing, a gradient leaves the weights to their decay alone."""

    def weights(**settings: Any) -> torch.Tensor:
        out = tmp_path / str(len([*tmp_path.iterdir()]))
        fixed = {"steps": 2, "clip_norm": 1e-16, "precision": "32-true", "warmup": 0.0}
        model = train(config(data, out, **{**fixed, **settings})).model
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    start = weights(learning_rate=1e-9, weight_decay=0.0)
    torch.testing.assert_close(weights(learning_rate=1e-3, weight_decay=0.0), start, rtol=0, atol=1e-6)
    factors = [1 - 1e-3 * 50 * learning_rate_factor(step, 2, 0.0) for step in range(2)]
    shrunk = start * factors[0] * factors[1]
    torch.testing.assert_close(weights(learning_rate=1e-3, weight_decay=50.0), shrunk, rtol=0, atol=1e-6)
    assert (weights(learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0) - start).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_several_files_are_trained_on_alike(data: str, tmp_path: Path) -> None:
    other = still(tmp_path / "still.h5")
    both = train(config((data, other), tmp_path / "run"))
    assert both.training["frames"] == 12 * 41 + 6 * 31
    assert both.normalizer.action_low == (-5, -5)
    variance = (11 * 40 * 4 / 3 + 5 * 30 * 25) / (11 * 40 + 5 * 30)  # one episode of each file is held out
    assert both.normalizer.action_std == pytest.approx((variance**0.5,) * 2, rel=0.05)
    alone = train(config(data, tmp_path / "alone"))
    assert np.mean(both.normalizer.pixel_mean) > 0.25 > 10 * np.mean(alone.normalizer.pixel_mean)
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert f"--data {data} --data {other} --steps 6" in card
    assert f"| data | `{data}`, `{other}`, 678 frames |" in card


def test_files_that_do_not_go_together_are_refused(data: str, tmp_path: Path) -> None:
    large, wide = still(tmp_path / "large.h5", image_size=48), still(tmp_path / "wide.h5", action_size=3)
    with pytest.raises(DatasetError, match=r"square.h5 has image_size 32 and .*large.h5 has 48: train on one of them"):
        train(config((data, large), tmp_path / "run"))
    with pytest.raises(DatasetError, match=r"square.h5 has action_size 2 and .*wide.h5 has 3"):
        train(config((data, wide), tmp_path / "run"))


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_file_that_does_not_say_where_it_is_from_is_taken_as_it_is(data: str, tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "silent.h5") as writer:
        for _ in range(3):
            writer.add(np.zeros((31, 32, 32, 3), np.uint8), np.ones((30, 2), np.float32), np.ones((31, 7)))
    trained = train(config((str(tmp_path / "silent.h5"), data), tmp_path / "run", steps=1))
    assert trained.env_kwargs == {"control_mode": "relative", "image_size": 32, "look": "plain"}


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_resumed_training_keeps_the_number_of_its_files(data: str, tmp_path: Path) -> None:
    other = still(tmp_path / "still.h5")
    train(config((data, other), tmp_path / "run", steps=2, keep_state=True))
    with pytest.raises(ValueError, match=r"other settings: files was 2 and is 1"):
        train(config(data, tmp_path / "run", steps=4), resume=True)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(data: str, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", steps=2, keep_state=True))
    with pytest.raises(ValueError, match="holds a training already: resume it"):
        train(config(data, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match=r"other settings: batch_size was 8 and is 4"):
        train(config(data, tmp_path / "run", steps=2, batch_size=4), resume=True)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_resumed_training_may_go_on_for_longer_and_says_so(data: str, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", steps=2, keep_state=True))
    checkpoint = train(config(data, tmp_path / "run", steps=5), resume=True)
    assert [line["step"] for line in losses(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert checkpoint.training["changes"] == ["from step 2, steps was 2 and is 5"]
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "resumed: from step 2, steps was 2 and is 5" in card


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_weights_keep_their_units_when_other_data_take_over(data: str, tmp_path: Path) -> None:
    before = train(config(data, tmp_path / "run", steps=2, keep_state=True))
    other = still(tmp_path / "still.h5")
    after = train(config(other, tmp_path / "run", steps=4), resume=True)
    assert after.normalizer == before.normalizer
    assert Checkpoint.load(tmp_path / "run" / "checkpoint").normalizer == before.normalizer
    assert any(f"data was ['{data}'] and is ['{other}']" in change for change in after.training["changes"])


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_training_on_does_not_throw_away_what_was_added(data: str, tmp_path: Path) -> None:
    trained = train(config(data, tmp_path / "run", steps=2))
    folder = tmp_path / "run" / "checkpoint"
    decoder = Decoder(latent_size=trained.model.summary_size, image_size=trained.model.image_size)
    training = {**trained.training, "predictor": {}}
    replace(trained, cost="running", decoder=decoder, training=training).save(folder, "card")
    with pytest.raises(
        ValueError, match=r"has predictor and decoder and recommended settings of plans of its own.*move it elsewhere"
    ):
        train(config(data, tmp_path / "run", steps=4), resume=True)
    assert Checkpoint.load(folder).cost == "running"


def test_a_training_may_begin_with_a_checkpoint(data: str, tmp_path: Path) -> None:
    first = train(config(data, tmp_path / "first"))
    folder = tmp_path / "first" / "checkpoint"
    replace(first, training={**first.training, "recommendation": {}}).save(folder, "card")
    settings = {"init": str(tmp_path / "first" / "checkpoint"), "model_settings": {"depth": 2}}
    fixed = {"learning_rate": 1e-9, "seed": 5, "weight_decay": 0.0}
    with pytest.raises(UserError, match=r"has depth=1, not 2: a training keeps the sizes .*may change model\.sigreg_w"):
        train(config(data, tmp_path / "other", **settings))
    with pytest.raises(UserError, match=r"has frameskip=5, not 3: a training keeps the sizes"):  # the constructor's own
        train(config(data, tmp_path / "other", init=settings["init"], model_settings={"frameskip": 3}))
    again = train(config(other_square(tmp_path / "other.h5", data), tmp_path / "again", init=settings["init"], **fixed))
    for name, weight in again.model.state_dict().items():
        assert torch.allclose(weight, first.model.state_dict()[name], atol=1e-3), name  # stored in half precision
    assert again.normalizer == first.normalizer
    card = (tmp_path / "again" / "checkpoint" / "README.md").read_text()
    assert f"--init {settings['init']}" in card
    assert "## Before" in card
    earlier = again.training["before"]
    assert "recommendation" not in earlier
    assert earlier["seconds"] == first.training["seconds"]
    assert training_seconds(again.training) == again.training["seconds"] + earlier["seconds"]


def test_a_training_that_begins_with_a_checkpoint_may_learn_by_another_loss(data: str, tmp_path: Path) -> None:
    first = train(config(data, tmp_path / "first", model_settings={"inverse_weight": 0.5}))
    losses = {"inverse_weight": 0.0, "actor_weight": 1.0, "sigreg_weight": 0.02, "dropout": 0.0}
    fixed = {"init": str(tmp_path / "first" / "checkpoint"), "learning_rate": 1e-9, "weight_decay": 0.0}
    again = train(config(data, tmp_path / "again", model_settings=losses, **fixed))
    assert {name: again.model_config[name] for name in losses} == losses
    weights = again.model.state_dict()
    assert not any(name.startswith("inverse.") for name in weights)
    assert any(name.startswith("actor.") for name in weights)
    for name in ("encoder.", "projector.", "predictor."):
        for part, weight in first.model.state_dict().items():
            if part.startswith(name):
                assert torch.allclose(weights[part], weight, atol=1e-3), part  # stored in half precision
    assert set(Checkpoint.load(tmp_path / "again" / "checkpoint").model.state_dict()) == set(weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "pusht-tiny", "env": "cube"}, "was recorded in pusht, not in cube"),
        ({"init": "cube-tiny"}, "--init cube-tiny has action_size=5, not 2"),
        ({"init": "pusht-tiny", "model": "gcbc"}, "--init pusht-tiny is a lewm, not a gcbc: pass --model lewm"),
        ({"init": "nowhere"}, "nowhere"),
    ],
)
def test_a_training_begins_with_no_other_model(
    settings: dict[str, Any], message: str, data: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(TrainConfig.from_preset("tiny", data=(data,), out=str(tmp_path / "run"), device="cpu", **settings))


def other_square(path: Path, data: str) -> str:
    """The data with one episode's pictures changed."""
    shutil.copy(data, path)
    with h5py.File(path, "r+") as file:
        file["pixels"][100:150] = 9
    return str(path)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_resumed_training_refuses_other_data_under_the_same_path(data: str, tmp_path: Path) -> None:
    path = str(shutil.copy(data, tmp_path / "data.h5"))
    train(config(path, tmp_path / "run", steps=2, keep_state=True))
    moved = str(shutil.move(path, tmp_path / "moved.h5"))
    other_square(Path(path), moved)
    with pytest.raises(UserError, match=r"cannot resume .*data.h5 holds other data than when the training began"):
        train(config(path, tmp_path / "run", steps=4), resume=True)
    after = train(config(moved, tmp_path / "run", steps=4), resume=True)
    assert after.training["changes"] == ["from step 2, steps was 2 and is 4"]  # the same data, elsewhere
    record = after.training["data_files"][0]
    assert record["fingerprint"] == Trajectories.open(moved).fingerprint
    assert (record["split_seed"], record["validation_share"]) == (0, 0.05)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_finished_training_leaves_no_state_and_is_not_begun_again(data: str, tmp_path: Path) -> None:
    finished = train(config(data, tmp_path / "run", steps=2))
    assert not (tmp_path / "run" / "training.safetensors").exists()
    weights = (tmp_path / "run" / "checkpoint" / "model.safetensors").read_bytes()
    again = train(config(data, tmp_path / "run", steps=2), on_step=lambda _: pytest.fail("trained"), resume=True)
    assert again.training["seconds"] == finished.training["seconds"]
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").read_bytes() == weights
    for settings in ({"steps": 4}, {"steps": 2, "batch_size": 4}):
        with pytest.raises(UserError, match="holds a finished training whose state was not kept"):
            train(config(data, tmp_path / "run", **settings), resume=True)
    with pytest.raises(UserError, match="holds a finished training"):
        train(config(other_square(tmp_path / "other.h5", data), tmp_path / "run", steps=2), resume=True)
    with pytest.raises(UserError, match="holds a training already"):
        train(config(data, tmp_path / "run", steps=2))


def flip_last_byte(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


def drop_step(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name not in ("step", "sha256")}
    save_file(load_file(path), path, metadata)


def drop_weights(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "sha256"}
    save_file({"model/none": torch.zeros(1)}, path, metadata)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged or cut short.*remove it and train again"),
        (lambda path: path.write_bytes(b""), "damaged or cut short"),
        (lambda path: path.write_bytes(b"\xff" * 64), "damaged or cut short"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "has no settings or no step"),
        (drop_step, "has no settings or no step"),
        (drop_weights, "damaged or cut short"),
        (flip_last_byte, "do not have the stored SHA-256"),
        (replace_by_pipe, "pipe or device"),
    ],
)
def test_damaged_state_is_refused(data: str, tmp_path: Path, damage: Any, message: str) -> None:
    train(config(data, tmp_path / "run", steps=1, keep_state=True))
    damage(tmp_path / "run" / "training.safetensors")
    with pytest.raises(UserError, match=message):
        train(config(data, tmp_path / "run", steps=2), resume=True)


def test_collapse_is_said_loudly(data: str, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="the latents are collapsing"):
        train(config(data, tmp_path / "run", model_settings={"sigreg_weight": 0.0}, learning_rate=0.02, steps=30))


def test_a_diverging_training_stops(data: str, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(config(data, tmp_path / "run", learning_rate=1e30, warmup=0.0, clip_norm=1e30, steps=30))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1.0}, "unknown training settings lr: choose from.*learning_rate"),
        ({"steps": 0}, "steps=0 must be positive"),
        ({"clip_length": 1}, "clip_length=1"),
        ({"batch_size": 9, "num_devices": 2}, "multiple of num_devices"),
        ({"data": "x"}, "data='x' must be a tuple of files"),
        ({"precision": "16-mixed"}, "precision='16-mixed' is unknown: choose one of auto, bf16-mixed, 32-true"),
        ({"data": ()}, "from one to the 80 clips"),
        ({"data": ("x",) * 5, "batch_size": 8, "num_devices": 2}, "from one to the 4 clips of a process"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_preset("tiny", **{"data": ("x",), "out": "y", **settings})


NUMBERS = [
    (model, name)
    for model, spec in MODELS.items()
    for name, kind in get_type_hints(spec.model.__init__).items()  # type: ignore[misc]
    if kind in (int, float)
]


@pytest.mark.parametrize(("model", "name"), NUMBERS)
def test_wrong_numbers_of_every_model_are_named(model: str, name: str) -> None:
    for value in (-2, True, "wide"):
        with pytest.raises(UserError, match=rf"^model\.{name}={value!r} must be "):
            TrainConfig.from_options(model=model, data=("x",), out="y", model_settings={name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depht": 3}, r"model\.depht is unknown: choose from action_size, frameskip, .*depth"),
        ({"residual": 1}, r"model\.residual=1 must be bool"),
        ({"dropout": 1.0}, r"model\.dropout=1\.0 must be under 1"),
        ({"image_size": None}, r"model\.image_size=None must be int"),
        ({"image_size": 65.5}, r"model\.image_size=65\.5 must be int"),
    ],
)
def test_wrong_settings_of_a_model_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig.from_preset("tiny", data=("x",), out="y", model_settings=settings)


def test_frames_of_a_model_without_a_usual_size_must_be_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnModel(LeWorldModel):
        def __init__(self, *, action_size: int, image_size: int) -> None: ...

    monkeypatch.setitem(MODELS, "own", ModelSpec(OwnModel, {"tiny": {}}, {}))
    own = TrainConfig.from_options(model="own", data=("x",), out="y")
    with pytest.raises(UserError, match=r"model=own has no usual size of frames: .*--set model.image_size=64"):
        _ = own.image_size
    assert replace(own, model_settings={"image_size": 48}).image_size == 48


def test_what_a_constructor_refuses_is_a_users_error(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(LeWorldModel):
        def __init__(self, *, action_size: int, image_size: int = 32, parts: int = 2) -> None:
            raise ValueError("parts must divide the frame")

    monkeypatch.setitem(MODELS, "strict", ModelSpec(Strict, {"tiny": {}}, {}))
    strict = TrainConfig.from_options(
        model="strict", data=(data,), out=str(tmp_path / "run"), model_settings={"parts": 5}, device="cpu"
    )
    with pytest.raises(UserError, match=r"no Strict can be made with .*model\.parts=5.*: parts must divide the frame"):
        train(strict)
    with pytest.raises(UserError, match=r"model\.action_size=3 is not that of .*: leave it out"):
        train(config(data, tmp_path / "run", model_settings={"action_size": 3}))


def test_unknown_presets_and_sizes_are_named(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"preset='huge'.*base, tiny"):
        TrainConfig.from_preset("huge", data=("x",), out="y")
    with pytest.raises(ValueError, match=r"takes 64-px frames and .* has 32"):
        train(config(data, tmp_path / "run", model_settings={"image_size": 64}))
    with pytest.raises(ValueError, match="longest"):
        train(config(data, tmp_path / "run", clip_length=30))


def test_precise_batch_norm_closes_the_gap_between_the_two_modes(data: str, tmp_path: Path) -> None:
    settings = config(
        data, tmp_path / "run", steps=8, model_settings={"projector_size": 24, "dropout": 0.0}, learning_rate=3e-3
    )
    checkpoint = train(settings)
    trajectories = Trajectories.open(data)
    windows = Mixture([Windows(trajectories, split(12, settings.validation, settings.seed)[0], 4, 5)])
    batch = to_batch(windows.sample(256, np.random.default_rng(0)), checkpoint.normalizer, torch.device("cpu"))

    def error(training: bool) -> float:
        checkpoint.model.train(training)
        with torch.no_grad():
            value: torch.Tensor = checkpoint.model.loss(batch, torch.Generator().manual_seed(0))["prediction"]  # type: ignore[operator]
        return float(value)

    norms = [module for module in checkpoint.model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert len(norms) == 2
    recalibrated = error(training=False)
    truth = error(training=True)  # this moves the running statistics, so it comes second
    for norm in norms:
        norm.reset_running_stats()
    assert recalibrated == pytest.approx(truth, rel=0.25)
    assert abs(error(training=False) - truth) > 4 * abs(recalibrated - truth)
    recalibrate_batch_norm(checkpoint, windows, settings)
    assert error(training=False) == pytest.approx(truth, rel=0.25)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
