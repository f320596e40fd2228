"""Settings that every test shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import lwm_agent  # noqa: F401  (before torch, which reads GOMP_SPINCOUNT when it is imported)

# isort: split
import numpy as np
import pytest
import torch

from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.envs import import_env

from .commands import forgetting
from .pretrained_files import write_all

EXAMPLES = Path(__file__).parent.parent / "examples"

# One thread, in the processes that tests start too. On a busy machine, two threads that wait for each other make small
# operations ten times as slow: tests/test_lewm.py took 6.5 minutes instead of one.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


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
def random_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of each frozen encoder."""
    return write_all(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def pretrained(random_encoders: Path) -> Iterator[Path]:
    """Folder from which models take their frozen encoders, in the modules that ask for it and in no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LWM_AGENT_PRETRAINED", str(random_encoders))
        yield random_encoders


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the examples, whose modules can be imported; what they register is removed again."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with forgetting(EXAMPLES):
        yield EXAMPLES


@pytest.fixture
def room(examples: Path) -> ModuleType:
    """The module of an example's environment, which is registered."""
    import_env("room:Room-v0")
    return sys.modules["room"]


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
