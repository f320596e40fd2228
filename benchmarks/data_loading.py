"""Speed of collecting, storing and cutting trajectories into clips; prints JSON: python benchmarks/data_loading.py.

Collection is timed by the clock, all else by the CPU time of this one process.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import hdf5plugin
import numpy as np

from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.clips import Windows
from lwm_agent.data.merge import CHUNK_FRAMES, COMPRESSION
from lwm_agent.data.trajectories import Trajectories

CLIP_LENGTH, FRAMESKIP, BATCH, BATCHES = 4, 5, 128, 40
CANDIDATES: dict[str, tuple[int, Any]] = {
    "lz4hc (ours)": (CHUNK_FRAMES, COMPRESSION),
    "blosc default, a frame a chunk": (1, hdf5plugin.Blosc()),
    "zstd": (CHUNK_FRAMES, hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.NOSHUFFLE)),
    "lzf, a frame a chunk": (1, {"compression": "lzf"}),
    "gzip, a frame a chunk": (1, {"compression": "gzip", "compression_opts": 1}),
}


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of one call, by `clock`."""
    started = clock()
    function()
    return clock() - started


def collect_rate(path: Path, workers: int) -> int:
    """Frames a second of recording Push-T play, start of the workers included."""
    config = CollectConfig(out=path, episodes=100, workers=workers)
    taken = seconds(lambda: collect(config), time.perf_counter)
    return round(config.episodes * (config.episode_env_steps + 1) / taken)


def clip_rate(path: Path, in_memory: bool) -> int:
    """Frames a second in batches of random clips."""
    data = Trajectories.open(path, in_memory)
    windows, rng = Windows(data, np.arange(data.num_episodes), CLIP_LENGTH, FRAMESKIP), np.random.default_rng(0)
    return round(BATCHES * BATCH * CLIP_LENGTH / seconds(lambda: [windows.sample(BATCH, rng) for _ in range(BATCHES)]))


def compression(source: Path, target: Path) -> dict[str, dict[str, int]]:
    """Bytes a frame and rates, in frames a second, of each way to store the pixels."""
    data, results = Trajectories.open(source, in_memory=True), {}
    for name, (chunk, options) in CANDIDATES.items():
        with h5py.File(source) as old, h5py.File(target, "w") as new:
            for column in ("action", "ep_len", "ep_offset"):
                new[column] = old[column][:]
            chunks = (chunk, *data.pixels.shape[1:])
            write = seconds(partial(new.create_dataset, "pixels", data=data.pixels, chunks=chunks, **options))
        results[name] = {
            "bytes_per_frame": round(target.stat().st_size / data.num_frames),
            "write": round(data.num_frames / write),
            "random_clips": clip_rate(target, in_memory=False),
        }
    return results


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "play.h5")
        collected = {"1 worker": collect_rate(path, 1), "2 workers": collect_rate(Path(folder, "play2.h5"), 2)}
        load = seconds(lambda: Trajectories.open(path, in_memory=True))
        result = {
            "collect_frames_per_second": collected,
            "load_frames_per_second": round(Trajectories.open(path).num_frames / load),
            "random_clips_frames_per_second": {
                "memory": clip_rate(path, in_memory=True),
                "disk": clip_rate(path, in_memory=False),
            },
            "compression": compression(path, Path(folder, "other.h5")),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
