"""Commands of `lwm-agent`, run in a folder: within this process, or in one of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from lwm_agent.cli import main
from lwm_agent.cli.errors import TRACEBACK_VARIABLE
from lwm_agent.cli.progress import console
from lwm_agent.envs import ENVS
from lwm_agent.imports import VARIABLE
from lwm_agent.models import MODELS

TRAIN = (
    "--steps 3 --device cpu --set train.batch_size=4 --set train.clip_length=3 --set model.image_size=32 "
    "--set model.latent_size=8 --set model.width=16 --set model.head_size=4 --set model.mlp_size=16 --set model.depth=1"
)
SEARCH = "--set planner.num_samples=6 --set planner.iterations=2 --device cpu"


def run(command: str, cwd: Path, code: int = 0) -> str:
    """Output of ``lwm-agent COMMAND``, run in this process: another one takes seconds to import torch.

    The next command finds the process as this one did: what it imports from `cwd` and registers does not stay.
    """
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(printed),
        redirect_stderr(printed),
        forgetting(cwd),
    ):
        patch.chdir(cwd)
        for name in (VARIABLE, TRACEBACK_VARIABLE):  # what --import and --traceback set is taken back
            patch.setenv(name, os.environ.get(name, ""))
        patch.setattr(sys, "argv", ["lwm-agent", *command.split()])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(console, "_width", None)  # tables widen it
        patch.setattr(console, "soft_wrap", True)
        patch.setattr(main, "handle_signals", lambda: None)
        with pytest.raises(SystemExit) as ended:
            main.main()
    return _checked(printed.getvalue(), ended.value.code or 0, code)


@contextmanager
def forgetting(folder: Path) -> Iterator[None]:
    """Takes back, at the end, what was registered, and the modules that were imported from `folder`."""
    registries: list[dict[str, Any]] = [ENVS, MODELS, gym.registry]
    before, modules = [dict(registry) for registry in registries], set(sys.modules)
    try:
        yield
    finally:
        for registry, entries in zip(registries, before, strict=True):
            registry.clear()
            registry.update(entries)
        for name in set(sys.modules) - modules:
            if folder.resolve() in Path(getattr(sys.modules[name], "__file__", None) or "/").resolve().parents:
                del sys.modules[name]


def run_apart(command: str, cwd: Path, code: int = 0) -> str:
    """The same in a process of its own, as from a shell."""
    done = subprocess.run(
        [sys.executable, "-c", "from lwm_agent.cli.main import main; main()", *command.split()],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return _checked(done.stdout + done.stderr, done.returncode, code)


def _checked(output: str, code: object, expected: int) -> str:
    assert code == expected, output
    assert "Traceback" not in output, output
    return " ".join(output.split())
