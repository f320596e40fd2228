"""Checkpoints: what is saved is what is loaded, and what cannot be loaded says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm_agent.checkpoint import Checkpoint, CheckpointError, available, checksum, target
from lwm_agent.models import PRESETS, LeWorldModel
from lwm_agent.normalizer import Normalizer

CONFIG: dict[str, Any] = {
    **PRESETS["tiny"],
    "image_size": 16,
    "latent_size": 8,
    "width": 16,
    "head_size": 4,
    "mlp_size": 16,
    "depth": 1,
    "projector_size": 12,
    "action_size": 3,
}


@pytest.fixture
def checkpoint() -> Checkpoint:
    one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Checkpoint(
        name="lewm",
        model_config=CONFIG,
        model=LeWorldModel(**CONFIG).eval(),
        normalizer=Normalizer(
            pixel_mean=one[0],
            pixel_std=one[1],
            action_mean=one[0],
            action_std=(0.1, 1 / 3, 2.0),
            action_low=(-1.0, -1.0, -1.0),
            action_high=one[1],
        ),
        env="pusht",
        env_kwargs={"image_size": 16},
        training={"steps": 3},
    )


def test_loading_gives_back_what_was_saved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", "# card\n")
    loaded = Checkpoint.load(tmp_path / "one")
    assert (loaded.name, loaded.model_config, loaded.normalizer) == ("lewm", CONFIG, checkpoint.normalizer)
    assert (loaded.env, loaded.env_kwargs, loaded.training) == ("pusht", {"image_size": 16}, {"steps": 3})
    assert (tmp_path / "one" / "README.md").read_text() == "# card\n"
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    pixels = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(loaded.model.embed(pixels), checkpoint.model.embed(pixels), atol=5e-3)


def test_saving_again_replaces_and_leaves_nothing_behind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", "first")
    before = checksum(tmp_path / "one")
    torch.nn.init.ones_(checkpoint.model.projector[0].weight)  # type: ignore[index,union-attr]
    checkpoint.save(tmp_path / "one", "second")
    assert checksum(tmp_path / "one") != before
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_saving_the_same_again_gives_the_same_checksum(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", "")
    Checkpoint.load(tmp_path / "one").save(tmp_path / "two", "")
    assert checksum(tmp_path / "one") == checksum(tmp_path / "two")


def test_a_missing_checkpoint_lists_those_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at.*pusht-tiny"):
        Checkpoint.load(tmp_path / "nowhere")


def damage_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def damage_weights(folder: Path, drop: str = "", **extra: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(drop, None)
    save_file({**weights, **extra}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "not an lwm-agent checkpoint"),
        (lambda f: damage_config(f, format=99), "has format 99.*reads 1"),
        (lambda f: damage_config(f, model="gpt"), "model 'gpt' is unknown.*lewm"),
        (lambda f: damage_config(f, model_config={**CONFIG, "colour": 1}), "does not describe a lewm model.*colour"),
        (lambda f: damage_config(f, normalizer={}), "does not describe"),
        (lambda f: damage_config(f, model_config={**CONFIG, "latent_size": 9}), r"does not fit.*expected \("),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"torch pickle"), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(f.joinpath("model.safetensors").read_bytes()[:-50]), "cannot"),
        (lambda f: damage_weights(f, drop="predictor.norm.weight"), "predictor.norm.weight is missing"),
        (lambda f: damage_weights(f, more=torch.zeros(1)), "more is unexpected"),
    ],
)
def test_what_is_damaged_says_so(checkpoint: Checkpoint, tmp_path: Path, damage: Any, message: str) -> None:
    checkpoint.save(tmp_path / "one", "")
    damage(tmp_path / "one")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(tmp_path / "one")


def test_only_a_checkpoint_is_replaced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run", "")  # into an empty folder
    checkpoint.save(tmp_path / "run", "card")
    assert (tmp_path / "run" / "README.md").read_text() == "card"
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is no checkpoint"):
        checkpoint.save(tmp_path / "file", "")
    for name, inside in {"models": "dear", "run": "notes", "other": "README.md"}.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / inside).touch()
        with pytest.raises(CheckpointError, match=rf"{name} is no checkpoint \(it holds .*: name a folder of its own"):
            checkpoint.save(tmp_path / name, "")
        assert (tmp_path / name / inside).exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="not an lwm-agent checkpoint"):
        checkpoint.save(tmp_path / "theirs", "")


def test_what_ships_with_the_package_is_never_changed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pusht-tiny ships with the package.*--out"):
        target("pusht-tiny", None)
    assert target("pusht-tiny", tmp_path / "new") == tmp_path / "new"


def test_weights_beyond_half_precision_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    next(checkpoint.model.parameters()).data.view(-1)[0] = 1e5
    with pytest.raises(CheckpointError, match="weights beyond 65504"):
        checkpoint.save(tmp_path / "one", "")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("name", available())
def test_shipped_checkpoints_load_and_are_small(name: str) -> None:
    checkpoint = Checkpoint.load(name)
    assert checkpoint.training["steps"] > 0
    folder = Path(__file__).parent.parent / "lwm_agent" / "zoo" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
