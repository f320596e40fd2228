"""Training: it goes on exactly where it stopped, it recalibrates, and it says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.data.trajectories import DatasetError, Mixture, Trajectories, Windows, split
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.model_card import hardware
from lwm_agent.training.config import TrainConfig
from lwm_agent.training.train import (
    Progress,
    fit_normalizer,
    learning_rate_factor,
    recalibrate_batch_norm,
    to_batch,
    train,
)

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
    model = {**MODEL, **settings.pop("model", {})}
    files = (data,) if isinstance(data, str) else data
    return TrainConfig.from_preset("tiny", **{**fixed, "out": str(out), "model": model, "data": files, **settings})


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
    assert checkpoint.env_kwargs == {"control_mode": "relative", "image_size": 32}
    assert {"r2_agent", "effective_rank", "prediction"} <= checkpoint.training["validation"].keys()
    assert checkpoint.normalizer.action_std == pytest.approx((2 / 3**0.5,) * 2, rel=0.2)
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "lwm-agent train --env pusht --preset tiny" in card
    assert "effective_rank" in card
    assert f"| hardware | {hardware(torch.device('cpu'))} |" in card
    precision = checkpoint.training["precision"]
    assert precision in ("bf16-mixed", "32-true")
    assert f"--precision {precision} --set train.batch_size=8 --set train.clip_length=4 --set train.log_every=1" in card
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def still(path: Path, image_size: int = 32, action_size: int = 2, **bounds: Any) -> str:
    """A file of 6 episodes of bright pictures in which nothing moves, actions of 5 or -5."""
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path, env_id="lwm/PushT-v0", env_kwargs={"image_size": image_size}, **bounds) as writer:
        for _ in range(6):
            pixels = np.full((31, image_size, image_size, 3), 250, np.uint8)
            writer.add(pixels, rng.choice(np.float32([5, -5]), (30, action_size)), np.ones((31, 7)))
    return str(path)


def test_bounds_are_those_of_the_data_within_those_of_the_environment(tmp_path: Path) -> None:
    clipped = still(tmp_path / "clipped.h5", action_low=[-1, -9], action_high=[2, 3])
    normalizer = fit_normalizer([Trajectories.open(clipped)], [np.arange(6)])
    assert (normalizer.action_low, normalizer.action_high) == ((-1, -5), (2, 3))


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
    assert trained.env_kwargs == {"control_mode": "relative", "image_size": 32}


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_resumed_training_keeps_the_number_of_its_files(data: str, tmp_path: Path) -> None:
    other = still(tmp_path / "still.h5")
    train(config((data, other), tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match=r"other settings: files was 2 and is 1"):
        train(config(data, tmp_path / "run", steps=4), resume=True)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(data: str, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match="holds a training already: resume it"):
        train(config(data, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match=r"other settings: batch_size was 8 and is 4"):
        train(config(data, tmp_path / "run", steps=2, batch_size=4), resume=True)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_a_resumed_training_may_go_on_for_longer_and_says_so(data: str, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", steps=2))
    checkpoint = train(config(data, tmp_path / "run", steps=5), resume=True)
    assert [line["step"] for line in losses(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert checkpoint.training["changes"] == ["from step 2, steps was 2 and is 5"]
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "resumed: from step 2, steps was 2 and is 5" in card


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_weights_keep_their_units_when_other_data_take_over(data: str, tmp_path: Path) -> None:
    before = train(config(data, tmp_path / "run", steps=2))
    other = still(tmp_path / "still.h5")
    after = train(config(other, tmp_path / "run", steps=4), resume=True)
    assert after.normalizer == before.normalizer
    assert Checkpoint.load(tmp_path / "run" / "checkpoint").normalizer == before.normalizer
    assert any(f"data was ['{data}'] and is ['{other}']" in change for change in after.training["changes"])


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_training_on_does_not_throw_away_what_was_added(data: str, tmp_path: Path) -> None:
    trained = train(config(data, tmp_path / "run", steps=2))
    folder = tmp_path / "run" / "checkpoint"
    replace(trained, cost="running", training={**trained.training, "predictor": {}}).save(folder, "card")
    with pytest.raises(
        ValueError, match=r"checkpoint has predictor and recommended cost of its own.*move it elsewhere"
    ):
        train(config(data, tmp_path / "run", steps=4), resume=True)
    assert Checkpoint.load(folder).cost == "running"


def test_collapse_is_said_loudly(data: str, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="the latents are collapsing"):
        train(config(data, tmp_path / "run", model={"sigreg_weight": 0.0}, learning_rate=0.02, steps=30))


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


def test_unknown_presets_and_sizes_are_named(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"preset='huge'.*base, tiny"):
        TrainConfig.from_preset("huge", data=("x",), out="y")
    with pytest.raises(ValueError, match=r"takes 64-px frames and .* has 32"):
        train(config(data, tmp_path / "run", model={"image_size": 64}))
    with pytest.raises(ValueError, match="longest"):
        train(config(data, tmp_path / "run", clip_length=30))


def test_precise_batch_norm_closes_the_gap_between_the_two_modes(data: str, tmp_path: Path) -> None:
    settings = config(data, tmp_path / "run", steps=8, model={"projector_size": 24, "dropout": 0.0}, learning_rate=3e-3)
    checkpoint = train(settings)
    trajectories = Trajectories.open(data)
    windows = Mixture([Windows(trajectories, split(12, settings.validation, settings.seed)[0], 4, 5)])
    batch = to_batch(windows.sample(256, np.random.default_rng(0)), checkpoint.normalizer)

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
