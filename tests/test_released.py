"""Released LeWorldModel weights, in files of the real layout, as `transformers` 4 and 5 name their tensors."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.cli.options import configure
from lwm_agent.errors import FileError, MachineError, UserError
from lwm_agent.models import LeWorldModel
from lwm_agent.training.config import ImportConfig
from lwm_agent.training.released import import_released

from .commands import run

A, F, SIZE = 2, 3, 42
SETTINGS = {"action_size": A, "frameskip": F, "image_size": SIZE, "history": 2, "depth": 2, "heads": 4, "head_size": 16}
PREDICTOR = {"heads": 4, "dim_head": 16, "depth": 2, "num_frames": 2}
STATED: dict[str, Any] = {"action_mean": (-0.01, 0.02), "action_std": (0.2, 0.3)}


def released_name(name: str) -> str:
    """The name in `transformers` 4 of a tensor of ours that has one alone, written down from the published files."""
    for ours, theirs in (
        ("encoder.patches.", "encoder.embeddings.patch_embeddings.projection."),
        ("encoder.class_token", "encoder.embeddings.cls_token"),
        ("encoder.positions", "encoder.embeddings.position_embeddings"),
        ("encoder.norm.", "encoder.layernorm."),
        ("encoder.blocks.", "encoder.encoder.layer."),
        ("predictor.positions", "predictor.pos_embedding"),
        ("predictor.norm.", "predictor.transformer.norm."),
        ("predictor.action_embedding.0.", "action_encoder.patch_embed."),
        ("predictor.action_embedding.1.", "action_encoder.embed.0."),
        ("predictor.action_embedding.3.", "action_encoder.embed.2."),
        ("predictor.output_proj.", "pred_proj.net."),
        ("predictor.blocks.", "predictor.transformer.layers."),
        ("projector.", "projector.net."),
    ):
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    if name.startswith("encoder.encoder"):
        parts = {".norm1.": ".layernorm_before.", ".norm2.": ".layernorm_after.", ".mlp.0.": ".intermediate.dense."}
        parts |= {".attention.out.": ".attention.output.dense.", ".mlp.3.": ".output.dense."}
    else:
        parts = {".attention_norm.": ".attn.norm.", ".mlp_norm.": ".mlp.net.0.", ".mlp.0.": ".mlp.net.1."}
        parts |= {".mlp.3.": ".mlp.net.4.", ".attention.qkv.": ".attn.to_qkv.", ".attention.out.": ".attn.to_out.0."}
        parts |= {".modulation.": ".adaLN_modulation."}
    for ours, theirs in parts.items():
        if ours in name:
            return name.replace(ours, theirs)
    return name


def released(model: LeWorldModel) -> dict[str, Tensor]:
    """The tensors of a model of ours as they are released."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if "encoder.blocks" in name and ".qkv." in name:
            block, _, kind = name.partition(".attention.qkv.")
            place = block.replace("encoder.blocks", "encoder.encoder.layer")
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                weights[f"{place}.attention.attention.{part}.{kind}"] = rows.clone()
        elif name == "predictor.action_embedding.0.weight":
            weights[released_name(name)] = tensor[..., None].clone()  # a convolution over time of one step
        elif name == "predictor.positions":
            weights[released_name(name)] = tensor[None].clone()
        else:
            weights[released_name(name)] = tensor.clone()
    return weights


def of_version_5(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that `transformers` 5 gives the same tensors (le-wm, issue 95)."""
    names = {
        "encoder.encoder.layer.": "encoder.layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        ".output.dense": ".mlp.fc2",
    }
    renamed = {}
    for name, tensor in weights.items():
        new = name
        for old, young in names.items() if name.startswith("encoder.encoder.") else ():
            new = new.replace(old, young)
        renamed[new] = tensor
    return renamed


@pytest.fixture(scope="module")
def model() -> LeWorldModel:
    torch.manual_seed(0)
    model = LeWorldModel(**SETTINGS)  # type: ignore[arg-type]
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.05 * torch.rand_like(tensor) + 0.01)
    return model.eval()


@pytest.fixture
def folder(model: LeWorldModel, tmp_path: Path) -> Path:
    """A folder as it is released."""
    return write(released(model), tmp_path / "released")


def write(weights: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    torch.save(weights, folder / "weights.pt")
    config = {"_target_": "stable_worldmodel.wm.lewm.LeWM", "predictor": PREDICTOR}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config(source: Path | str, out: Path, **settings: Any) -> ImportConfig:
    return ImportConfig(source=str(source), out=str(out), **(settings or STATED))


def test_base_has_as_many_parameters_as_the_released_weights() -> None:
    assert sum(parameter.numel() for parameter in LeWorldModel(action_size=2).parameters()) == 18_034_478


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("prefix", ["", "model."])
@torch.no_grad()
def test_released_weights_encode_and_imagine_as_their_model(
    model: LeWorldModel, version: int, prefix: str, tmp_path: Path
) -> None:
    weights = released(model)
    weights = weights if version == 4 else of_version_5(weights)
    folder = write({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "released")
    import_released(config(folder, tmp_path / "out"))
    checkpoint = Checkpoint.load(tmp_path / "out")
    assert {name: checkpoint.model_config[name] for name in SETTINGS} == SETTINGS
    frames, blocks = torch.randn(3, 3, SIZE, SIZE), torch.randn(3, 5, 4, F * A)
    ours = checkpoint.model
    assert isinstance(ours, LeWorldModel)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in ours.state_dict().items())
    torch.testing.assert_close(ours.embed(frames), model.embed(frames), rtol=1e-4, atol=1e-4)
    imagined, expected = (one.rollout(one.begin(frames), blocks) for one in (ours, model))
    torch.testing.assert_close(imagined, expected, rtol=1e-4, atol=1e-4)


def test_units_are_those_that_are_stated_or_of_the_data(folder: Path, data: str, tmp_path: Path) -> None:
    units = import_released(config(folder, tmp_path / "stated")).normalizer
    assert units.action_mean == pytest.approx((-0.01, 0.02))
    assert (units.action_low, units.action_high) == ((-1, -1), (1, 1))  # of lwm/PushT-v0
    assert units.pixel_mean == (0.485, 0.456, 0.406)
    units = import_released(config(folder, tmp_path / "data", data=(data,))).normalizer
    assert units.action_high == pytest.approx((2, 2), abs=0.1)
    assert units.pixel_mean == (0.485, 0.456, 0.406)  # those of the weights, not of the data


def test_an_agent_plans_with_released_weights(folder: Path, tmp_path: Path) -> None:
    import_released(config(folder, tmp_path / "out"))
    agent = Agent.load(tmp_path / "out", "cem", device="cpu")
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8) for name in ("pixels", "goal")}
    action, _ = agent.predict(observation)
    assert action.shape == (2, A)
    assert (np.abs(action) <= 1).all()


def test_the_command_imports_them_and_the_card_names_them(folder: Path, tmp_path: Path) -> None:
    stated = "--action-mean -0.01 0.02 --action-std 0.2 0.3"
    printed = run(f"import {folder} --out mine {stated}", tmp_path)
    assert "42 px, 3 environment steps a block" in printed
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "Released weights" in card
    assert "SHA-256 of the weights" in card
    printed = run(f"import {folder} --out other", tmp_path, code=2)
    assert "the units of actions are not in released weights" in printed


def damaged(change: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "predictor.transformer.layers.1.attn.to_out.0.weight"
    if change == "missing":
        del weights[name]
    elif change == "unknown":
        weights["decoder.weight"] = torch.zeros(3)
    elif change == "shape":
        weights[name] = weights[name].T.clone()
    elif change == "nan":
        weights[name][0, 0] = torch.nan
    elif change == "width":
        name = "encoder.embeddings.position_embeddings"
        weights[name] = torch.zeros(1, 10, 384)
    else:
        weights = {"policy.weight": torch.zeros(2)}
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "there is no 'predictor.transformer.layers.1.attn.to_out.0.weight'"),
        ("unknown", r"'decoder.weight' is no part of LeWorldModel \(1 such"),
        ("shape", r"has shape \(64, 192\): expected \(192, 64\)"),
        ("nan", "has numbers that are not finite"),
        ("width", "the encoder has width 384 and patches of 14 px: only ViT-Tiny"),
        ("other", "these are not the weights of a released LeWorldModel"),
    ],
)
def test_weights_that_are_not_those_are_refused(change: str, message: str, model: LeWorldModel, tmp_path: Path) -> None:
    folder = write(damaged(change, released(model)), tmp_path / "released")
    with pytest.raises(UserError, match=message):
        import_released(config(folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    (folder / "weights.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileError, match=r"weights\.pt"):
        import_released(config(folder, tmp_path / "out"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "neither a folder nor an id of the Hugging Face hub"), ("empty", "has no weights.pt: name a folder")],
)
def test_places_without_weights_are_refused(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=message):
        import_released(config(tmp_path / source if source == "empty" else source, tmp_path / "out"))


def test_weights_come_from_the_hub_at_the_revision_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Hub:
        @staticmethod
        def hf_hub_download(repository: str, name: str, revision: str | None) -> str:
            asked.append((repository, name, revision))
            return str(folder / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    import_released(config("someone/lewm", tmp_path / "out", revision="abc", **STATED))
    assert asked == [("someone/lewm", "config.json", "abc"), ("someone/lewm", "weights.pt", "abc")]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MachineError, match="someone/lewm is no folder here, and to download it: pip install"):
        import_released(config("someone/lewm", tmp_path / "again"))


@pytest.mark.parametrize(
    "settings", [{}, {"action_mean": [0.0, 0.0]}, {"data": ["x.h5"], "action_mean": [0.0], "action_std": [1.0]}]
)
def test_units_are_stated_once(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"units of actions are not in released weights"):
        configure(ImportConfig, {"source": "folder", "out": "out", **settings})


@torch.no_grad()
def test_the_encoder_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 12}
    theirs = transformers.ViTModel(
        transformers.ViTConfig(image_size=SIZE, patch_size=14, **sizes), add_pooling_layer=False
    ).eval()
    model = LeWorldModel(**SETTINGS).eval()  # type: ignore[arg-type]
    weights = released(model)
    weights |= {f"encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    from lwm_agent.models.released import load_released

    load_released(model, {name: weight for name, weight in weights.items() if "encoder.encoder" not in name
                          or any(name == f"encoder.{own}" for own in theirs.state_dict())})  # fmt: skip
    frames = torch.randn(2, 3, SIZE, SIZE)
    expected = theirs(frames).last_hidden_state[:, 0]
    torch.testing.assert_close(model.encoder(frames), expected, atol=1e-5, rtol=1e-4)
