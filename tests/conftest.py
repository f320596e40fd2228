"""Settings that every test shares."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from lwm_agent.data.writer import TrajectoryWriter

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # each worker taking every core is slower than each taking one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = {}
    if not torch.cuda.is_available():
        lacking["cuda"] = "no CUDA device"
    if find_spec("ogbench") is None:
        lacking["ogbench"] = "ogbench is not installed: it has no wheels for this Python"
    for item in items:
        for name, reason in lacking.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 12 episodes of a bright square that moves by its action, 40 steps on 32-px frames."""
    path = tmp_path_factory.mktemp("data") / "square.h5"
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path, env_id="lwm/PushT-v0", env_kwargs={"image_size": 32}) as writer:
        for _ in range(12):
            action = rng.uniform(-2, 2, (40, 2)).astype(np.float32)
            place = np.concatenate([[[14.0, 14.0]], 14 + np.cumsum(action, 0)]).clip(0, 28)
            pixels = np.zeros((41, 32, 32, 3), np.uint8)
            for frame, (x, y) in zip(pixels, place.astype(int), strict=True):
                frame[y : y + 4, x : x + 4] = 255
            state = np.concatenate([place, place, place[:, :1], place], axis=1)
            writer.add(pixels, action, state)
    return str(path)
