"""Where a result comes from: command, tasks, checkpoint, settings, versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .tasks import TaskSet

PACKAGES = ("lwm-agent", "torch", "numpy", "gymnasium", "pymunk", "pygame", "mujoco", "ogbench")


def run_info(
    task_set: TaskSet,
    *,
    seed: int,
    checkpoint: str | None = None,
    planner: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything needed to repeat a run and to judge its timings.

    Args:
        task_set: the tasks.
        seed: of the evaluation.
        checkpoint: hash of the policy's checkpoint.
        planner: settings of the policy's planner.
        env_kwargs: arguments of the environment on top of the set's own.
    """
    return {
        "command": command_line(),
        "tasks": {
            "env_id": task_set.env_id,
            "env_kwargs": {**task_set.env_kwargs, **(env_kwargs or {})},
            "protocol": task_set.protocol,
            "split": task_set.split,
            "offset_env_steps": task_set.offset_env_steps,
            "budget_env_steps": task_set.budget_env_steps,
            "sha256": task_set.sha256,
        },
        "checkpoint": checkpoint,
        "planner": dict(planner or {}),
        "seed": seed,
        **machine(),
    }


def fingerprint(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `run_info` that decides the outcome of an episode: the same, and an evaluation may be resumed."""
    return {key: run[key] for key in ("tasks", "checkpoint", "planner", "seed")}


def command_line() -> str:
    """The command that is running."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """What timings depend on: versions and hardware."""
    versions = {"python": platform.python_version(), **_versions()}
    return {"versions": versions, "commit": commit(Path(__file__).parent.parent), "hardware": _hardware()}


def commit(folder: Path) -> str | None:
    """Commit of the working tree `folder`, with a "+" where files were changed since; None if it is none of Git's.

    Of a result that took several runs, the last one's.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _hardware() -> dict[str, Any]:
    import torch  # only here: nothing else in evaluation needs it

    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
