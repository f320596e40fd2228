"""Decoders: trained on frozen latents, beside the checkpoint, without any effect on the agent."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lwm_agent import Agent
from lwm_agent.checkpoint import Checkpoint, CheckpointError, checksum
from lwm_agent.errors import UserError
from lwm_agent.models import Decoder
from lwm_agent.training.config import DecoderConfig, HeadsConfig
from lwm_agent.training.decoder import train_decoder
from lwm_agent.training.heads import train_heads

from .commands import run
from .test_train_predictor import trained  # noqa: F401  (a fixture: a small checkpoint of the square that moves)

FILE = "decoder.safetensors"


@pytest.fixture(scope="module")
def painted(trained: Path, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A checkpoint with a decoder."""
    out = tmp_path_factory.mktemp("painted") / "checkpoint"
    train_decoder(
        DecoderConfig(checkpoint=str(trained), data=(data,), out=str(out), steps=60, batch_size=32, device="cpu")
    )
    return out


def test_it_learns_to_paint(trained: Path, data: str, painted: Path, tmp_path: Path) -> None:  # noqa: F811
    record = Checkpoint.load(painted).decoder.record  # type: ignore[union-attr]
    short = train_decoder(
        DecoderConfig(checkpoint=str(trained), data=(data,), out=str(tmp_path / "short"), steps=1, device="cpu")
    )
    assert short.decoder is not None
    for name in ("pixel_error", "unusual_error"):
        assert record["validation"][name] < 0.8 * short.decoder.record["validation"][name], name


def test_a_checkpoint_paints_latents_as_frames(painted: Path, trained: Path) -> None:  # noqa: F811
    checkpoint = Checkpoint.load(painted)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    latents = checkpoint.model.embed(checkpoint.normalizer.pixels(frames))
    pictures = checkpoint.paint(latents)
    assert (pictures.shape, pictures.dtype) == ((5, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(checkpoint.paint(latents[2:3])[0], pictures[2])
    with pytest.raises(UserError, match="paints no pictures: train a decoder with `lwm-agent train-decoder`"):
        Checkpoint.load(trained).paint(latents)
    dreamer = Checkpoint.load("pusht-dreamer")  # paints itself
    assert dreamer.paint(torch.zeros(2, *dreamer.model.latent_shape)).shape == (2, 64, 64, 3)


def test_results_are_of_the_same_checkpoint_with_and_without_one(painted: Path, trained: Path) -> None:  # noqa: F811
    assert checksum(painted) == checksum(trained)
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (2, 32, 32, 3), np.uint8) for name in ("pixels", "goal")}
    with_it, without = (
        Agent.load(folder, "cem", device="cpu").predict(observation)[0] for folder in (painted, trained)
    )
    np.testing.assert_array_equal(with_it, without)


def test_agents_keep_what_their_plans_lead_to(painted: Path) -> None:
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (3, 32, 32, 3), np.uint8) for name in ("pixels", "goal")}
    settings = {"device": "cpu", "deadline_env_steps": 12}
    plain = Agent.load(painted, "cem", **settings)
    agent = Agent.load(painted, "cem", keep_imagined=True, **settings)
    action, state = agent.predict(observation)
    expected, other = plain.predict(observation)
    np.testing.assert_array_equal(action, expected)
    assert agent.settings() == plain.settings()  # results do not depend on it
    assert all(decision.imagined is None for decision in other.decisions)
    model = agent.checkpoint.world_model
    belief = model.begin(agent.checkpoint.normalizer.pixels(observation["pixels"]))
    for row, decision in enumerate(state.decisions):
        assert decision is not None
        assert decision.imagined is not None
        assert decision.imagined.shape == (12 // model.frameskip, *model.latent_shape)  # up to the deadline
        assert decision.imagined.isfinite().all()
        assert not torch.equal(decision.imagined[0], belief.latent[row])


def test_films_have_a_panel_of_what_is_imagined(tmp_path: Path) -> None:
    run("demo --checkpoint pusht-dreamer --planner cem --set planner.num_samples=8 --set planner.num_elites=2 "
        "--set planner.iterations=1 --task 3 --output-dir .", tmp_path)  # fmt: skip
    film = iio.imread(tmp_path / "task-003.gif")
    assert film.shape[1:] == (608, 1104, 3)
    imagined = film[:, 48:304, 560:816]
    assert (imagined[0] != imagined[-1]).any()  # each plan has its own


def test_other_trainings_keep_it(painted: Path, data: str, tmp_path: Path) -> None:
    heads = HeadsConfig(checkpoint=str(painted), data=(data,), out=str(tmp_path / "heads"), steps=2, device="cpu")
    kept = train_heads(heads)
    assert (tmp_path / "heads" / FILE).read_bytes() == (painted / FILE).read_bytes()
    card = (tmp_path / "heads" / "README.md").read_text()
    assert "## Heads" in card
    assert "## Decoder" in card
    assert "unusual_error" in card
    assert kept.decoder is not None


def test_an_interrupted_training_goes_on(trained: Path, data: str, tmp_path: Path) -> None:  # noqa: F811
    config = DecoderConfig(
        checkpoint=str(trained),
        data=(data,),
        out=str(tmp_path / "one"),
        steps=6,
        batch_size=8,
        save_every=2,
        device="cpu",
    )

    def stop(task: str, done: int, total: int, text: str) -> None:
        if task == "training decoder" and done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_decoder(config, stop)
    assert not (tmp_path / "one").exists()
    train_decoder(config)
    train_decoder(replace(config, out=str(tmp_path / "whole")))
    one, whole = (load_file(tmp_path / name / FILE) for name in ("one", "whole"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in one.items())


def test_the_command_paints(trained: Path, data: str, tmp_path: Path) -> None:  # noqa: F811
    printed = run(f"train-decoder --checkpoint {trained} --data {data} --out mine --steps 2 --device cpu", tmp_path)
    assert "pixel_error" in printed
    assert "wrote the decoder into mine" in printed


def rewritten(path: Path, change: str) -> None:
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    if change == "weights":
        name = next(name for name, tensor in weights.items() if tensor.dtype == torch.float16)
        weights[name] = weights[name] + 1
    elif change == "header":
        metadata = {}
    elif change == "json":
        metadata["decoder"] = "{"
    elif change == "size":
        metadata["decoder"] = metadata["decoder"].replace('"latent_size": ', '"latent_size": 1')
    else:
        metadata["decoder"] = metadata["decoder"].replace('"image_size"', '"side"')
    save_file(weights, path, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights", "is not what was saved"),
        ("header", "is no decoder"),
        ("json", "is no decoder"),
        ("size", "paints latents of other sizes"),
        ("name", "is no decoder"),
    ],
)
def test_damaged_decoders_are_refused(change: str, message: str, painted: Path, tmp_path: Path) -> None:
    shutil.copytree(painted, tmp_path / "copy")
    rewritten(tmp_path / "copy" / FILE, change)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(tmp_path / "copy")


def test_a_small_thing_is_painted_where_it_weighs_more() -> None:
    """A dot on 4 of 1,024 pixels, in one of two places: without focus, it is hardly worth the error elsewhere."""
    torch.manual_seed(0)
    frames = torch.zeros(64, 3, 32, 32)
    frames += 0.2 * torch.randn(64, 1, 1, 1)
    frames[::2, :, 4:6, 4:6], frames[1::2, :, 20:22, 20:22] = 3.0, 3.0
    latents = torch.stack([torch.arange(64) % 2 * 2.0 - 1, frames[:, 0, 31, 31]], dim=1)
    errors = []
    for focus in (0.0, 30.0):
        torch.manual_seed(1)
        decoder = Decoder(latent_size=2, image_size=32)
        decoder.calibrate(frames)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
        for _ in range(30):
            loss = decoder.loss(latents, frames, focus)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        errors.append(float((decoder(latents)[::2, :, 4:6, 4:6] - 3.0).abs().mean().detach()))
    assert errors[1] < errors[0]
    assert decoder(latents).shape == frames.shape
    with pytest.raises(UserError, match="image_size=36 must be a multiple of 16"):
        Decoder(latent_size=2, image_size=36)
