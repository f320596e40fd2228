"""Training an encoder to see past shifts: all else of a checkpoint, and what it makes of usual pictures, stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm_agent.checkpoint import Checkpoint, find_checkpoint
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.errors import UserError
from lwm_agent.training import encoder
from lwm_agent.training.config import EncoderConfig
from lwm_agent.training.encoder import draw, scenes_of, train_encoder

from .commands import run
from .test_train_predictor import trained  # noqa: F401  (a fixture: a small checkpoint of the square that moves)

SHIFTS = ("background-color=1", "blur=1")


@pytest.fixture(autouse=True)
def few_validation_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing 512 states in each way takes longer than these trainings."""
    monkeypatch.setattr(encoder, "VALIDATION", 64)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> str:
    return recorded(tmp_path_factory.mktemp("play") / "play.h5")


def recorded(path: Path, **settings: Any) -> str:
    collect(CollectConfig(out=path, episodes=4, episode_env_steps=30, workers=1, **settings))
    return str(path)


def without_origin(path: str, out: Path) -> str:
    """A copy of two episodes that says neither where they were recorded nor in which states."""
    file = Trajectories.open(path)
    with TrajectoryWriter(out) as writer:
        for first, length in zip(file.offsets[:2], file.lengths[:2], strict=True):
            writer.add(file.frames(np.arange(first, first + length)), file.action[first : first + length - 1])
    return str(out)


def kept_out(path: Path) -> tuple[Any, ...]:
    record = Checkpoint.load(path).training["encoder"]["data_files"][0]
    return record["split_seed"], record["validation_share"]


def config(play: str, out: Path, **settings: Any) -> EncoderConfig:
    fixed: dict[str, Any] = {"checkpoint": "pusht-tiny", "shift": SHIFTS, "steps": 12, "batch_size": 9, "device": "cpu"}
    return EncoderConfig(data=(play,), out=str(out), **{**fixed, **settings})


def test_it_sees_past_what_differs_and_all_else_stays(play: str, tmp_path: Path) -> None:
    after = train_encoder(config(play, tmp_path / "after", steps=40))
    errors = after.training["encoder"]["validation"]
    for name in ("background-color=1", "all of them"):
        assert errors[name] < 0.8 * errors[f"{name} before"], name
    assert errors["as recorded"] < 0.1
    shipped, saved = find_checkpoint("pusht-tiny"), Checkpoint.load(tmp_path / "after")
    old = Checkpoint.load("pusht-tiny").model.state_dict()
    changed = {name.split(".")[0] for name, now in saved.model.state_dict().items() if not torch.equal(now, old[name])}
    assert changed == {"encoder", "projector"}
    assert not any(weight.requires_grad for weight in after.model.parameters())
    for name in ("heads.safetensors", "decoder.safetensors"):
        assert (shipped / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    card = (tmp_path / "after" / "README.md").read_text()
    assert (
        f"lwm-agent train-encoder --checkpoint pusht-tiny --data {play} --shift background-color=1 --shift blur=1"
        in card
    )
    assert "| all of them before |" in card


class InterruptError(Exception):
    """Ends a training in a test."""


def test_an_interrupted_training_equals_an_uninterrupted_one(play: str, tmp_path: Path) -> None:
    def stop(task: str, done: int, total: int, text: str) -> None:
        if (task, done) == ("training encoder", 20):
            raise InterruptError

    wanted = {"steps": 24, "save_every": 8}
    train_encoder(config(play, tmp_path / "whole", **wanted))
    with pytest.raises(InterruptError):
        train_encoder(config(play, tmp_path / "cut", **wanted), stop)
    with pytest.raises(UserError, match=r"shift was .* and is \['blur=1'\]"):
        train_encoder(config(play, tmp_path / "cut", **{**wanted, "shift": ("blur=1",)}))
    train_encoder(config(play, tmp_path / "cut", **wanted))
    for part in ("cut", "whole"):
        assert sorted(path.name for path in (tmp_path / part).iterdir()) == sorted(
            path.name for path in find_checkpoint("pusht-tiny").iterdir()
        )
    cut, whole = ((tmp_path / part / "model.safetensors").read_bytes() for part in ("cut", "whole"))
    assert cut == whole


def test_a_training_that_was_interrupted_after_its_last_step_has_nothing_to_learn_again(
    play: str, tmp_path: Path
) -> None:
    def stop(task: str, done: int, total: int, text: str) -> None:
        if (task, done) == ("training encoder", 3):
            raise InterruptError

    with pytest.raises(InterruptError):
        train_encoder(config(play, tmp_path / "out", steps=3), stop)
    seen: list[tuple[int, str]] = []
    train_encoder(
        config(play, tmp_path / "out", steps=3),
        lambda task, done, total, text: seen.append((done, text)) if task == "training encoder" else None,
    )
    assert seen == [(3, "continued after step 3")]


def test_a_training_may_begin_with_the_encoder_of_an_earlier_one(play: str, tmp_path: Path) -> None:
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    errors = train_encoder(config(play, tmp_path / "first", steps=30)).training["encoder"]["validation"]
    on = train_encoder(config(play, tmp_path / "second", steps=1, learning_rate=1e-9, init=first))
    assert on.training["encoder"]["validation"]["as recorded"] == pytest.approx(errors["as recorded"], rel=1e-3)
    for name in ("background-color=1", "all of them"):
        assert on.training["encoder"]["validation"][f"{name} before"] == pytest.approx(errors[name], rel=1e-3)
    card = (Path(second) / "README.md").read_text()
    assert f"--set encoder.init={first}" in card
    assert "--steps 30 --seed 0" in card.split(f"--set encoder.init={first}")[0]  # what it began with


def test_a_training_goes_on_without_the_episodes_that_the_earlier_one_held_out(play: str, tmp_path: Path) -> None:
    train_encoder(config(play, tmp_path / "first", steps=1, seed=5, validation=0.4))
    train_encoder(config(play, tmp_path / "on", steps=1, checkpoint=str(tmp_path / "first")))
    train_encoder(config(play, tmp_path / "init", steps=1, init=str(tmp_path / "first")))
    assert kept_out(tmp_path / "on") == kept_out(tmp_path / "init") == (5, 0.4)


@pytest.mark.parametrize("init", ["pusht-dreamer", "cube-tiny"])
def test_another_kind_of_encoder_cannot_be_begun_with(init: str, play: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has another kind of encoder|has no encoder that can be trained"):
        train_encoder(config(play, tmp_path / "out", init=init))


@pytest.mark.parametrize("share", [0.5, 0.0, 1.0])
def test_a_share_of_the_pictures_has_all_shifts_and_the_others_one(share: float) -> None:
    checkpoint, rng = Checkpoint.load("pusht-tiny"), np.random.default_rng(0)
    with scenes_of(checkpoint, ("background-color=1", "pixel-noise=0.05")) as scenes:
        states = np.repeat(scenes.usual.reset(seed=0)[1]["state"][None], 81, axis=0)
        pictures = scenes.unusual_pictures(states, share, rng)
        (usual,) = draw(scenes.usual, states[:1], rng)
    assert pictures.shape == (81, 64, 64, 3)
    corners = pictures[:, 20:24, 2:6].astype(int)  # of the table, where neither agent nor block is
    coloured = np.abs(np.median(corners, axis=(1, 2)) - usual[20, 2]).max(axis=-1) > 20
    noisy = corners.std(axis=(1, 2)).max(axis=-1) > 5
    assert not (~coloured & ~noisy).any()
    assert share - 0.2 < (coloured & noisy).mean() < share + 0.2
    assert (coloured & ~noisy).any() == (share < 1)
    assert (noisy & ~coloured).any() == (share < 1)


def test_the_cubes_states_are_drawn_as_they_were_recorded(tmp_path: Path) -> None:
    pytest.importorskip("ogbench", reason="ogbench is not installed: it has no wheels for this Python")
    file = Trajectories.open(recorded(tmp_path / "cube.h5", env="cube"))
    rows = np.array([3, 10, 40])
    assert file.state is not None
    with scenes_of(Checkpoint.load("cube-tiny"), ("cube-color=1",)) as scenes:
        plain = draw(scenes.usual, file.state[rows], np.random.default_rng(0)).astype(int)
        coloured = draw(scenes.unusual["cube-color=1"], file.state[rows], np.random.default_rng(0)).astype(int)
    assert np.abs(plain - file.frames(rows)).mean() < 0.5
    different = np.abs(coloured - plain).max(axis=-1) > 30
    assert (different.sum(axis=(1, 2)) > 3).all()
    assert different.mean() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": ()}, "names nothing that may differ: name at least one"),
        ({"shift": ("smell=1",)}, "shift 'smell=1' is unknown: write NAME=STRENGTH"),
        (
            {"shift": ("action-noise=0.1",)},
            "does not change what a state looks like: an encoder cannot learn action-noise",
        ),
        ({"checkpoint": "pusht-dreamer"}, "a dreamer model has no encoder that can be trained by itself: collect data"),
        ({"checkpoint": "pusht-gcbc"}, "a gcbc model has no encoder that can be trained by itself"),
    ],
)
def test_what_cannot_be_learned_is_refused(settings: dict[str, Any], message: str, play: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train_encoder(config(play, tmp_path / "out", **settings))
    assert list(tmp_path.iterdir()) == []


def test_data_whose_states_do_not_say_what_they_show_are_refused(play: str, tmp_path: Path) -> None:
    other = recorded(tmp_path / "other.h5", shift=("background-color=1",))
    with pytest.raises(UserError, match=r"other.h5 differ from their states, .* were collected without --shift"):
        train_encoder(config(other, tmp_path / "out"))
    bare = without_origin(play, tmp_path / "bare.h5")
    with pytest.raises(UserError, match=r"bare.h5 has no states: its frames cannot be drawn"):
        train_encoder(config(bare, tmp_path / "out"))


def test_environments_that_are_not_registered_are_refused(
    trained: Path,  # noqa: F811
    data: str,
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    replace(Checkpoint.load(trained), env="Elsewhere-v0").save(elsewhere, "card")
    with pytest.raises(UserError, match="env='Elsewhere-v0' is unknown: choose one of pusht, cube"):
        train_encoder(config(without_origin(data, tmp_path / "x.h5"), tmp_path / "out", checkpoint=str(elsewhere)))


def test_the_command_says_what_it_has_learned(play: str, tmp_path: Path) -> None:
    printed = run(
        f"train-encoder --checkpoint pusht-tiny --data {play} --shift {' '.join(SHIFTS)} --steps 1 --out mine", tmp_path
    )
    assert "background-color=1 before" in printed
    assert "wrote mine" in printed
