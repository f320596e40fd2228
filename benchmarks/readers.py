"""Our reader of training clips beside stable-worldmodel's (version 0.1.1), on the same files: frames/s and peak memory.

Each reader draws batches of random clips in a process of its own, in turn, several times; medians are written as JSON.
Frames a second are by the CPU time of the process; memory is what it takes beyond its imports at most. Without
stable-worldmodel, ours is measured alone. python benchmarks/readers.py --data data/pusht.h5
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import h5py  # type: ignore[import-untyped]
import hdf5plugin
import numpy as np
import typer

from lwm_agent.data.trajectories import Trajectories
from lwm_agent.eval.provenance import command_line, machine

CLIP_LENGTH, FRAMESKIP, BATCH, BATCHES = 4, 5, 128, 30
OURS, OURS_IN_MEMORY, PEER = "lwm-agent", "lwm-agent, in memory", "stable-worldmodel"
Draw = Callable[[], int]
"""Draws a batch; returns the number of its frames."""


def ours(path: Path, in_memory: bool) -> Draw:
    """Batches as `lwm-agent train` draws them."""
    from lwm_agent.data.clips import Windows

    data = Trajectories.open(path, in_memory)
    windows, rng = Windows(data, np.arange(data.num_episodes), CLIP_LENGTH, FRAMESKIP), np.random.default_rng(0)
    return lambda: windows.sample(BATCH, rng).pixels[..., 0, 0, 0].size


def peer(path: Path) -> Draw:
    """Batches of its data set, in the calling process, as its DataLoader makes them."""
    from stable_worldmodel.data import HDF5Dataset
    from torch.utils.data import default_collate

    data = HDF5Dataset(path=path, frameskip=FRAMESKIP, num_steps=CLIP_LENGTH, keys_to_load=["pixels", "action"])
    rng = np.random.default_rng(0)
    return lambda: default_collate([data[i] for i in rng.integers(len(data), size=BATCH)])["pixels"][
        ..., 0, 0, 0
    ].numel()


def measure(reader: str, path: Path) -> dict[str, float]:
    """Frames a second and MiB of one reader in this process."""
    import torch  # of both, so that neither counts it

    if reader == PEER:
        import stable_worldmodel.data  # noqa: F401
    torch.set_num_threads(1)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    draw = peer(path) if reader == PEER else ours(path, reader == OURS_IN_MEMORY)
    draw()
    started = time.process_time()
    frames = sum(draw() for _ in range(BATCHES))
    seconds = time.process_time() - started
    return {"frames_per_second": frames / seconds, "peak_mib": (_status("VmHWM") - before) / 1024}


def _status(name: str) -> int:
    """KiB that Linux counts for this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def with_released_layout(source: Path, target: Path) -> None:
    """Copies a file in the layout of the released ones: a frame a chunk, Blosc as it comes."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for column in ("action", "ep_len", "ep_offset"):
            new[column] = old[column][:]
        pixels = old["pixels"]
        copy = new.create_dataset(
            "pixels", pixels.shape, pixels.dtype, chunks=(1, *pixels.shape[1:]), **hdf5plugin.Blosc()
        )
        for start in range(0, len(pixels), 4096):
            copy[start : start + 4096] = pixels[start : start + 4096]


def main(
    data: Annotated[Path, typer.Option(help="File of trajectories.")],
    rounds: Annotated[int, typer.Option(help="Measurements of each reader.", min=1)] = 3,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("out/readers.json"),
    reader: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measures, prints and writes; with --reader, a single reader once."""
    if reader is not None:
        print(json.dumps(measure(reader, data)))
        return
    readers = [OURS, OURS_IN_MEMORY, *([PEER] if find_spec("stable_worldmodel") else [])]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        released = Path(folder, "released.h5")
        with_released_layout(data, released)
        for layout, path in (("ours", data), ("released", released)):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
            for _ in range(rounds):
                for name in readers:
                    found[name].append(_in_process(name, path))
            results[layout] = {name: _medians(values) for name, values in found.items()}
    trajectories = Trajectories.open(data, in_memory=False)
    clips = {"clip_length": CLIP_LENGTH, "frameskip": FRAMESKIP, "batch": BATCH, "batches": BATCHES, "rounds": rounds}
    size = trajectories.num_frames * trajectories.image_size**2 * 3 / 2**20
    info = {
        "command": command_line(),
        "frames": trajectories.num_frames,
        "pixels_mib": round(size),
        **clips,
        "peer": version("stable-worldmodel") if PEER in readers else None,
        **machine(),
    }
    text = json.dumps({"info": info, "layouts": results}, indent=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)


def _in_process(reader: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--data", str(path), "--reader", reader]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def _medians(values: list[dict[str, float]]) -> dict[str, int]:
    """Medians of all measurements, and the least and the most frames a second."""
    rates = [value["frames_per_second"] for value in values]
    medians = {name: round(median(value[name] for value in values)) for name in values[0]}
    return {**medians, "least": round(min(rates)), "most": round(max(rates))}


if __name__ == "__main__":
    typer.run(main)
