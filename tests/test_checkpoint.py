"""Checkpoints: what is saved is what is loaded, and what cannot be loaded says why."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm_agent.checkpoint import Checkpoint, CheckpointError, checksum, output_folder, shipped_checkpoints
from lwm_agent.errors import UserError
from lwm_agent.models import MODELS, Heads, LeWorldModel
from lwm_agent.normalizer import Normalizer
from lwm_agent.weights import build, load_weights

from .mutations import nobody

CONFIG: dict[str, Any] = {
    **MODELS["lewm"].presets["tiny"],
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


def test_loaded_checkpoint_equals_the_saved_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
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


RESULTS = {
    "pusht-pixels": "results/pusht-guided-25.json",
    "pusht-tiny": "results/tiny/pusht-guided-25.json",
    "cube-tiny": "results/cube-guided-25.json",
}


@pytest.mark.parametrize("name", RESULTS)
def test_checksum_of_shipped_checkpoints_is_that_of_the_committed_results(name: str) -> None:
    results = json.loads((Path(__file__).parent.parent / RESULTS[name]).read_text("utf-8"))
    assert checksum(name) == results["run"]["checkpoint"]


def test_checksum_does_not_depend_on_the_stored_hashes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", "")
    before = checksum(tmp_path / "one")
    assert json.loads((tmp_path / "one" / "config.json").read_text()).keys() > {"sha256", "cost"}
    drop_hashes(tmp_path / "one")
    assert checksum(tmp_path / "one") == before
    assert Checkpoint.load(tmp_path / "one").training == {"steps": 3}


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


def test_missing_checkpoint_error_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at.*pusht-tiny"):
        Checkpoint.load(tmp_path / "nowhere")


def damage_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def drop_hashes(folder: Path) -> None:
    """Makes the folder that of a version that stored no hashes."""
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def change_weight(folder: Path, change: Any, name: str = "predictor.norm.weight", file: str = "model") -> None:
    """Changes one tensor of a checkpoint without hashes."""
    path = folder / f"{file}.safetensors"
    weights = load_file(path)
    weights[name] = change(weights[name])
    save_file(weights, path)
    drop_hashes(folder)


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
        (lambda f: damage_config(f, model="gpt"), "model='gpt' is unknown.*lewm"),
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
def test_damaged_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path, damage: Any, message: str) -> None:
    checkpoint.save(tmp_path / "one", "")
    damage(tmp_path / "one")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(tmp_path / "one")


BATCH_NORM = "projector.1.running_var"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: damage_config(f, cost=1.5), "cost must be str, got 1.5"),
        (lambda f: damage_config(f, cost=""), "env and cost must not be empty"),
        (lambda f: damage_config(f, replan_every_env_steps=0), "replan_every_env_steps must be at least 1"),
        (lambda f: damage_config(f, replan_every_env_steps=1.5), "replan_every_env_steps must be int, got 1.5"),
        (lambda f: damage_config(f, env=["pusht"]), r"env must be str, got \['pusht'\]"),
        (lambda f: damage_config(f, env=""), "env and cost must not be empty"),
        (lambda f: damage_config(f, env_kwargs=[]), r"env_kwargs must be dict, got \[\]"),
        (
            lambda f: damage_config(f, env_kwargs={"image_size": 17}),
            "image_size in env_kwargs is 17 and the model's 16",
        ),
        (lambda f: damage_config(f, training=None), "training must be dict, got None"),
        (lambda f: damage_config(f, heads=7), "heads must be dict | None, got 7"),
        (lambda f: damage_config(f, heads={"latent_size": 8}), "heads.safetensors cannot be read"),
        (lambda f: damage_config(f, heads={}), "heads.safetensors cannot be read"),
        (lambda f: damage_config(f, heads={"latent_size": 8.5}), "heads.latent_size=8.5 must be int"),
        (lambda f: damage_config(f, model=3), "model must be str"),
        (lambda f: damage_config(f, model_config=3), "model_config must be dict"),
        (lambda f: damage_config(f, format=True), "has format True"),
        (lambda f: damage_config(f, format=1.0), "has format 1.0"),
        (lambda f: damage_config(f, cots="running"), "unknown entries 'cots'"),
        (lambda f: damage_config(f, sha256="x"), "sha256 must be dict"),
        (lambda f: damage_config(f, sha256={}), "config.json is not what was saved"),
        (lambda f: damage_config(f, env="cube"), r"config.json is not what was saved.*remove \"sha256\""),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "no UTF-8"),
        (lambda f: damage_config(f, model_config={**CONFIG, "latent_size": 10**12}), "does not fit"),
        (lambda f: damage_config(f, model_config={**CONFIG, "depth": 10**9}), "does not fit"),
        (lambda f: damage_config(f, model_config={**CONFIG, "width": 2**70}), "does not (describe|fit)"),
        (lambda f: damage_config(f, model_config={**CONFIG, "heads": 0}), "does not (describe|fit)"),
        (lambda f: damage_config(f, model_config={**CONFIG, "latent_size": -3}), "does not (describe|fit)"),
        (lambda f: damage_config(f, model_config={**CONFIG, "history": 2.0}), "model_config.history=2.0 must be int"),
        (
            lambda f: damage_config(f, model_config={**CONFIG, "residual": "no"}),
            "model_config.residual='no' must be bool",
        ),
        (lambda f: damage_config(f, model_config={**CONFIG, "sigreg_weight": float("nan")}), "must be finite"),
        (lambda f: damage_normalizer(f, pixel_mean=[0.0, float("nan"), 0.0]), "pixel_mean=.*must be finite"),
        (lambda f: damage_normalizer(f, action_low=[2.0, 0.0, 0.0]), "action_low.* must be below action_high"),
        (lambda f: damage_normalizer(f, action_std=[1.0]), "action_std has 1 numbers and action_mean has 3"),
        (lambda f: damage_normalizer(f, discrete=0), "discrete=0 must be True or False"),
        (lambda f: change_weight(f, lambda w: w.bfloat16()), "predictor.norm.weight has numbers of type BF16"),
        (lambda f: change_weight(f, lambda w: w.to(torch.int8)), "predictor.norm.weight has numbers of type I8"),
        (lambda f: change_weight(f, lambda w: w.to(torch.complex64)), "predictor.norm.weight"),
        (lambda f: change_weight(f, lambda w: w.double()), "predictor.norm.weight has numbers of type F64"),
        (
            lambda f: change_weight(f, lambda w: w * torch.nan),
            "model.safetensors: predictor.norm.weight has NaN or inf",
        ),
        (lambda f: change_weight(f, lambda w: w / 0), "predictor.norm.weight has NaN or infinity"),
        (lambda f: change_weight(f, lambda w: w.half(), BATCH_NORM), "running_var has numbers of type F16, expected"),
        (lambda f: change_weight(f, lambda w: w * torch.inf, BATCH_NORM), "running_var has NaN or infinity"),
        (lambda f: flip_byte(f / "model.safetensors"), "model.safetensors is not what was saved: its SHA-256 is"),
        (lambda f: replace_by_pipe(f / "model.safetensors"), "model.safetensors cannot be read .*pipe"),
        (lambda f: replace_by_pipe(f / "config.json"), "no checkpoint at"),
    ],
)
def test_checkpoint_that_cannot_be_right_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, change: Any, message: str
) -> None:
    checkpoint.save(tmp_path / "one", "")
    change(tmp_path / "one")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(tmp_path / "one")


def damage_normalizer(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    damage_config(folder, normalizer={**config["normalizer"], **changes})


def flip_byte(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-3] ^= 1
    path.write_bytes(contents)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_weights_of_heads_are_checked_too(checkpoint: Checkpoint, tmp_path: Path) -> None:
    headed = replace(checkpoint, heads=Heads(latent_size=8, block_size=15, width=4, max_steps=3))
    headed.save(tmp_path / "one", "")
    assert Checkpoint.load(tmp_path / "one").heads is not None
    flip_byte(tmp_path / "one" / "heads.safetensors")
    with pytest.raises(CheckpointError, match=r"heads.safetensors is not what was saved"):
        Checkpoint.load(tmp_path / "one")
    headed.save(tmp_path / "one", "")
    change_weight(tmp_path / "one", lambda weight: weight * torch.nan, "actor.steps.weight", "heads")
    with pytest.raises(CheckpointError, match=r"heads.safetensors: actor.steps.weight has NaN or infinity"):
        Checkpoint.load(tmp_path / "one")
    replace(checkpoint, heads=Heads(latent_size=9, block_size=15, width=4, max_steps=3)).save(tmp_path / "one", "")
    with pytest.raises(CheckpointError, match="latent_size of heads is 9 and the model's 8"):
        Checkpoint.load(tmp_path / "one")
    replace(checkpoint, heads=Heads(latent_size=8, block_size=14, width=4, max_steps=3)).save(tmp_path / "one", "")
    with pytest.raises(CheckpointError, match="block_size of heads is 14 and the model's 15"):
        Checkpoint.load(tmp_path / "one")


@pytest.mark.parametrize("name", ["", "../tests", "a\0b", "x" * 5000])
def test_odd_names_of_checkpoints_are_refused(name: str) -> None:
    for call in (Checkpoint.load, checksum):
        with pytest.raises(CheckpointError, match="checkpoint"):
            call(name)


def test_folder_of_a_run_leads_to_its_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run" / "checkpoint", "")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*run': do you mean .*run.checkpoint"):
        Checkpoint.load(tmp_path / "run")


def test_loading_does_not_depend_on_modes_nor_draw_random_numbers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", "")
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            loaded = Checkpoint.load(tmp_path / "one")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert not any(weight.is_inference() for weight in loaded.model.parameters())


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_files_without_permission_are_named(checkpoint: Checkpoint, tmp_path: Path, file: str) -> None:
    checkpoint.save(tmp_path / "one", "")
    (tmp_path / "one" / file).chmod(0)
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(0o755)
    with nobody(), pytest.raises(CheckpointError, match=rf"{file} cannot be read.*permission denied: .*chmod"):
        Checkpoint.load(tmp_path / "one")


def test_interrupted_save_is_finished_when_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one.old", "old")
    checkpoint.save(tmp_path / "one.partial", "new")
    assert Checkpoint.load(tmp_path / "one").training == {"steps": 3}
    assert (tmp_path / "one" / "README.md").read_text() == "new"


def test_link_to_a_checkpoint_stays_a_link(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "store" / "step-3", "old")
    (tmp_path / "last").symlink_to(tmp_path / "store" / "step-3")
    for card in ("new", "newer"):
        checkpoint.save(output_folder(tmp_path / "last", None), card)
        assert (tmp_path / "last").is_symlink()
        assert (tmp_path / "store" / "step-3" / "README.md").read_text() == card


def test_output_that_cannot_be_written_is_refused_before_the_work(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", "")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file, not a folder"):
        output_folder(tmp_path / "one", tmp_path / "file" / "two")
    with pytest.raises(UserError, match=r"file is no checkpoint \(it is a file\)"):
        output_folder(tmp_path / "one", tmp_path / "file")


class Renamed(torch.nn.Module):
    """A part whose layers had other names in an earlier version."""

    renamed_weights: ClassVar[dict[str, str]] = {"inward": "input_proj", "outward.": "out.proj."}

    def __init__(self) -> None:
        super().__init__()
        self.input_proj = torch.nn.Linear(2, 3)
        self.out = torch.nn.ModuleDict({"proj": torch.nn.Linear(3, 5)})


class Whole(torch.nn.Module):
    renamed_weights: ClassVar[dict[str, str]] = {"body": "predictor"}

    def __init__(self) -> None:
        super().__init__()
        self.predictor = torch.nn.Sequential(Renamed(), torch.nn.Linear(5, 7, bias=False))


def test_weights_of_renamed_parts_load_under_their_new_names(tmp_path: Path) -> None:
    model = Whole()
    path = tmp_path / "old.safetensors"
    changes = (("predictor", "body"), ("input_proj", "inward"), ("out.proj", "outward"))
    old = dict(model.state_dict())
    for new_part, old_part in changes:
        old = {name.replace(new_part, old_part): tensor.half() for name, tensor in old.items()}
    assert "body.0.outward.bias" in old
    save_file(old, path)
    loaded = build(Whole, path, "it")
    load_weights(loaded, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    save_file({name.replace("inward", "inwards"): tensor for name, tensor in old.items()}, path)
    with pytest.raises(CheckpointError, match=r"predictor.0.input_proj.bias is missing"):
        build(Whole, path, "it")


def test_save_replaces_checkpoints_only(checkpoint: Checkpoint, tmp_path: Path) -> None:
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


def test_output_folder_is_never_a_shipped_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pusht-tiny ships with the package.*--out"):
        output_folder("pusht-tiny", None)
    assert output_folder("pusht-tiny", tmp_path / "new") == tmp_path / "new"


def test_weights_beyond_half_precision_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    next(checkpoint.model.parameters()).data.view(-1)[0] = 1e5
    with pytest.raises(CheckpointError, match="weights beyond 65504"):
        checkpoint.save(tmp_path / "one", "")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_shipped_checkpoints_load_and_are_small(name: str) -> None:
    checkpoint = Checkpoint.load(name)
    assert checkpoint.training["steps"] > 0
    folder = Path(__file__).parent.parent / "lwm_agent" / "zoo" / name
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert sizes.get("decoder.safetensors", 0) < 3e6
    assert sum(sizes.values()) < 15e6  # as the README says
