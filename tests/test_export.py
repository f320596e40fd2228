"""Exports to ONNX: the same numbers as torch, and an agent that plans on them without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from lwm_agent import shipped_tasks
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.errors import MachineError, UserError
from lwm_agent.experiments.config import ExportConfig
from lwm_agent.experiments.export import export

needs_onnx = pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnxscript") is None, reason="needs the extra onnx"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "pusht"
    difference = export(ExportConfig(checkpoint="pusht-tiny", out=str(folder))).difference
    assert difference is not None
    assert difference < 1e-4
    return folder


@needs_onnx
@torch.no_grad()
def test_graphs_compute_what_torch_does_for_any_batch(exported: Path) -> None:
    import onnxruntime

    checkpoint = Checkpoint.load("pusht-tiny")
    model = checkpoint.world_model
    frames = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), np.uint8)
    session = onnxruntime.InferenceSession(exported / "encoder.onnx")
    (latents,) = session.run(None, {"pixels": frames})
    belief = model.begin(checkpoint.normalizer.pixels(frames))
    np.testing.assert_allclose(latents, belief.latent.numpy(), atol=1e-4)
    block = torch.randn(7, model.block_size)
    inputs = dict(zip(("latents", "actions", "length"), (part.numpy() for part in belief), strict=True))
    session = onnxruntime.InferenceSession(exported / "imagine.onnx")
    (imagined,) = session.run(None, {**inputs, "block": block.numpy()})
    np.testing.assert_allclose(imagined, model.imagine(belief, block).latent.numpy(), atol=1e-4)


@needs_onnx
def test_the_cubes_transformer_can_be_exported_too(tmp_path: Path) -> None:
    difference = export(ExportConfig(checkpoint="cube-tiny", out=str(tmp_path / "cube"))).difference
    assert difference is not None
    assert difference < 1e-4
    about = json.loads((tmp_path / "cube" / "agent.json").read_text())
    assert (about["env"], about["frameskip"], len(about["action_mean"])) == ("cube", 5, 5)
    assert about["cost"] == "best-step+10*actor-deviation"


@needs_onnx
def test_the_example_solves_a_task_without_torch(exported: Path, examples: Path) -> None:
    from onnx_agent import OnnxAgent  # type: ignore[import-not-found]

    agent, task = OnnxAgent(exported), shipped_tasks("pusht").tasks[82]
    with gym.make("lwm/PushT-v0", max_episode_steps=50) as env:
        observation, info = env.reset(seed=0, options=task.reset_options)
        agent.reset(50)
        over = False
        while not over:
            action = agent.act(observation["pixels"], observation["goal"])
            assert env.action_space.contains(action)
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
    assert info["is_success"]
    code = f"import sys; sys.path.insert(0, {str(examples)!r}); import onnx_agent; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs the extra onnx")
def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a dreamer cannot be exported: only LeWorldModel"):
        export(ExportConfig(checkpoint="pusht-dreamer", out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_agent.experiments.export.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"exports to ONNX need packages: pip install"):
        export(ExportConfig(checkpoint="pusht-tiny", out=str(tmp_path / "out")))
