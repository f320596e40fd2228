"""Latency of the agent of examples/onnx_agent.py beside torch's; writes JSON: python benchmarks/onnx_latency.py.

Both make the first decision of an episode, from two pictures to an action, by the same search: 16 futures of the actor,
then three times 64 candidates. They take turns in one run, on random pictures. Each has the threads that it takes by
itself. On a busy machine, milliseconds say little, and their ratio says more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import numpy as np
import torch
import typer

from lwm_agent import Agent
from lwm_agent.eval.provenance import command_line, machine
from lwm_agent.experiments.config import ExportConfig
from lwm_agent.experiments.export import export
from lwm_agent.files import write_text

CHECKPOINT, EPISODE, WARM_UP = "pusht-tiny", 1000, 3  # environment steps: the deadline is far; untimed turns


def onnx_decision(folder: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Decisions of the example's agent, each for a new episode."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    from onnx_agent import OnnxAgent

    agent = OnnxAgent(folder)

    def decide(pixels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        agent.reset(EPISODE)
        return agent.act(pixels, goal)

    return decide


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = perf_counter()
    call()
    return 1000 * (perf_counter() - started)


def main(
    decisions: Annotated[int, typer.Option(help="Timed decisions of each agent.", min=1)] = 100,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("out/onnx-latency.json"),
) -> None:
    """Times both agents in turns, and prints the medians and their ratio."""
    agent = Agent.load(CHECKPOINT, "guided", deadline_env_steps=EPISODE)
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"torch": [], "onnx": []}
    with TemporaryDirectory() as folder:
        export(ExportConfig(checkpoint=CHECKPOINT, out=f"{folder}/graphs"))
        decide = onnx_decision(Path(folder) / "graphs")
        for turn in range(WARM_UP + decisions):
            pixels, goal = rng.integers(0, 256, (2, agent.model.image_size, agent.model.image_size, 3), np.uint8)
            torch_ms = milliseconds(lambda: agent.predict({"pixels": pixels, "goal": goal}))  # noqa: B023
            onnx_ms = milliseconds(lambda: decide(pixels, goal))  # noqa: B023
            if turn >= WARM_UP:
                times["torch"].append(torch_ms)
                times["onnx"].append(onnx_ms)
    measured = {
        f"{name}_{label}": round(float(np.percentile(values, share)), 1)
        for name, values in times.items()
        for label, share in (("p50_ms", 50), ("p95_ms", 95))
    }
    ratio = median(onnx / other for onnx, other in zip(times["onnx"], times["torch"], strict=True))
    contents = {
        "command": command_line(),
        "checkpoint": CHECKPOINT,
        "decisions": decisions,
        **measured,
        "median_ratio_onnx_to_torch": round(ratio, 2),
        "torch_agent": {"bf16": agent.bf16, "threads": torch.get_num_threads()},
        **machine(),
    }
    write_text(out, json.dumps(contents, indent=1) + "\n")
    print(json.dumps(measured | {"median_ratio_onnx_to_torch": round(ratio, 2)}, indent=1))


if __name__ == "__main__":
    typer.run(main)
