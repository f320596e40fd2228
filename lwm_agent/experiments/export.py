"""Export of a LeWorldModel checkpoint to ONNX: graphs that plan without torch, and a file that says how."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from ..errors import MachineError, UserError
from ..files import replacing_folder, write_text
from ..imports import pip_install
from ..models import Heads, LeWorldModel
from ..models.window import Window
from .config import ExportConfig

FORMAT = "lwm-agent onnx 1"
DESCRIPTION = "agent.json"
TOLERANCE = 1e-4


class Encoder(nn.Module):
    """Frames ``(N, h, w, 3)`` in uint8 to latents ``(N, D)``."""

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: Checkpoint, model: LeWorldModel) -> None:
        super().__init__()
        self.model = model
        units = checkpoint.normalizer
        self.register_buffer("mean", 255.0 * torch.tensor(units.pixel_mean))
        self.register_buffer("std", 255.0 * torch.tensor(units.pixel_std))

    def forward(self, pixels: Tensor) -> Tensor:
        """The latents."""
        return self.model.embed(((pixels.float() - self.mean) / self.std).movedim(-1, -3))


class Imagine(nn.Module):
    """The latent ``(N, D)`` after a window of latents and one more action block."""

    def __init__(self, model: LeWorldModel) -> None:
        super().__init__()
        self.predictor = model.predictor

    def forward(self, latents: Tensor, actions: Tensor, length: Tensor, block: Tensor) -> Tensor:
        """The latent, from ``(N, H, D)``, ``(N, H - 1, F*A)``, ``(N,)`` and ``(N, F*A)``."""
        return self.predictor.advance(Window(latents, actions, length), block)


class Act(nn.Module):
    """The actor's next block, and how far it is to the goal."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, latent: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation ``(N, F*A)`` for two latents ``(N, D)`` and steps left ``(N,)``; log of the steps."""
        mean, std = self.heads.act(latent, goal, steps)
        return mean, std, self.heads.log_steps(latent[:, None, None], goal)[:, 0, 0]


class Graph(NamedTuple):
    """A network to export, examples of its inputs, and the names of inputs and outputs."""

    network: nn.Module
    examples: tuple[Tensor, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True)
class Export:
    """Outcome of an export.

    Attributes:
        files: the graphs.
        difference: the largest difference from torch in onnxruntime, None where that is not installed.
    """

    files: list[Path]
    difference: float | None


def export(config: ExportConfig) -> Export:
    """Writes the graphs of a checkpoint and ``agent.json`` into ``config.out``, and compares them with torch.

    Raises:
        UserError: the checkpoint is no LeWorldModel.
        MachineError: a package is missing, or a graph computes something else than torch.
    """
    if find_spec("onnxscript") is None:
        raise MachineError(f"exports to ONNX need packages: {pip_install('onnx')}")
    checkpoint = Checkpoint.load(config.checkpoint)
    graphs = _graphs(checkpoint)
    with replacing_folder(config.out) as work:
        for name, graph in graphs.items():
            _write(graph, work / f"{name}.onnx")
        difference = _difference(graphs, work) if find_spec("onnxruntime") else None
        if difference is not None and difference > TOLERANCE:
            raise MachineError(f"the exported graphs differ from torch by {difference:.2g}, more than {TOLERANCE:g}")
        write_text(work / DESCRIPTION, json.dumps(_description(checkpoint), indent=1) + "\n")
    return Export([Path(config.out) / f"{name}.onnx" for name in graphs], difference)


def _graphs(checkpoint: Checkpoint) -> dict[str, Graph]:
    model = checkpoint.model
    if not isinstance(model, LeWorldModel):
        raise UserError(f"a {checkpoint.name} cannot be exported: only LeWorldModel (lewm) can")
    size, history, block = model.latent_shape[0], model.history, model.block_size
    side = model.image_size
    graphs = {
        "encoder": Graph(
            Encoder(checkpoint, model), (torch.randint(0, 256, (3, side, side, 3)).byte(),), ["pixels"], ["latent"]
        ),
        "imagine": Graph(
            Imagine(model),
            (
                torch.randn(3, history, size),
                torch.randn(3, history - 1, block),
                torch.ones(3).long(),
                torch.randn(3, block),
            ),
            ["latents", "actions", "length", "block"],
            ["latent"],
        ),
    }
    if checkpoint.heads is not None:
        graphs["actor"] = Graph(
            Act(checkpoint.heads),
            (torch.randn(3, size), torch.randn(3, size), torch.ones(3).long()),
            ["latent", "goal", "steps"],
            ["mean", "std", "log_steps"],
        )
    return graphs


def _write(graph: Graph, path: Path) -> None:
    """Exports a graph whose batch may have any size."""
    batch = torch.export.Dim("batch")
    with _quiet():
        torch.onnx.export(
            graph.network.eval(),
            graph.examples,
            path,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple({0: batch} for _ in graph.examples),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Any:
    """Without the exporter's notes about packages that it could do without."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def _difference(graphs: dict[str, Graph], folder: Path) -> float:
    """Largest difference between onnxruntime and torch, on a batch of another size than the exported one."""
    import onnxruntime

    worst = 0.0
    for name, graph in graphs.items():
        inputs = [torch.cat([example, example[:2]]) for example in graph.examples]
        expected = graph.network(*inputs)
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        found = session.run(None, {key: part.numpy() for key, part in zip(graph.inputs, inputs, strict=True)})
        for ours, theirs in zip(expected if isinstance(expected, tuple) else (expected,), found, strict=True):
            worst = max(worst, float((ours - torch.from_numpy(theirs)).abs().max()))
    return worst


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts that an agent needs beside the graphs: sizes, units of actions, the environment."""
    model = checkpoint.world_model
    assert isinstance(model, LeWorldModel)
    units = asdict(checkpoint.normalizer)
    return {
        "format": FORMAT,
        "env": checkpoint.env,
        "env_kwargs": checkpoint.env_kwargs,
        "image_size": model.image_size,
        "latent_size": model.latent_shape[0],
        "history": model.history,
        "frameskip": model.frameskip,
        "cost": checkpoint.cost,
        **{name: value for name, value in units.items() if name.startswith("action") or name == "discrete"},
    }
