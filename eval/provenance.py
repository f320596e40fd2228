"""Provenance of a result: command, tasks, checkpoint, settings, versions and hardware."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .accounting import ModelAccount
from .tasks import TaskSet

ROOT = __name__.partition(".")[0]
PACKAGES = ("lwm-agent", "torch", "numpy", "gymnasium", "pymunk", "pygame", "mujoco", "ogbench")


def run_info(
    task_set: TaskSet,
    *,
    seed: int,
    checkpoint: str | None = None,
    planner: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    model: ModelAccount | None = None,
    shifts: Sequence[str] = (),
) -> dict[str, Any]:
    """Settings, versions and hardware: all that is needed to repeat a run and to judge its timings.

    Args:
        task_set: the tasks.
        seed: seed of the evaluation.
        checkpoint: hash of the policy's checkpoint.
        planner: settings of the policy's planner.
        env_kwargs: arguments of the environment on top of the set's own.
        model: costs of the policy's model.
        shifts: differences of the environment from the usual.
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
        "shifts": list(shifts),
        "checkpoint": checkpoint,
        "planner": dict(planner or {}),
        "model": None if model is None else asdict(model),
        "seed": seed,
        "sources": sources(),
        **machine(),
    }


def fingerprint(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `run_info` from which the outcome of an episode follows: an evaluation is resumed if it is the same.

    Two working trees with changed files can have the same commit and dirty mark: the hash of the sources tells them
    apart. `max_rollouts` is not a part of it: it follows from free memory, which differs at each start, and changes
    actions by rounding only. The results record that of the last run.
    """
    code = {"version": run["versions"].get("lwm-agent"), "commit": run["commit"], "sources": run["sources"]}
    return {**{key: run[key] for key in ("tasks", "shifts", "checkpoint", "planner", "seed")}, "code": code}


def sources() -> str:
    """Hash of the package's source files: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, file in sorted(source_files().items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def source_files() -> dict[str, Path]:
    """Source files of the package by module name, ``lwm_agent.eval.tasks.py``, wherever its rooms are installed."""
    files: dict[str, Path] = {}
    for name in (ROOT, *(f"{ROOT}.{room}" for room in ("envs", "planners", "eval"))):
        spec = importlib.util.find_spec(name)
        for place in () if spec is None else spec.submodule_search_locations or ():
            files |= _modules(name, Path(place))
    return files


def _modules(package: str, folder: Path) -> dict[str, Path]:
    """Source files of a package by module name."""
    modules: dict[str, Path] = {}
    for place, _, names in os.walk(folder, followlinks=True):
        room = ".".join((package, *Path(place).relative_to(folder).parts))
        modules |= {f"{room}.{name}": Path(place, name) for name in names if name.endswith(".py")}
    return modules


def command_line() -> str:
    """The command that is running."""
    program = Path(sys.argv[0]).name
    return shlex.join(["lwm-agent" if program == "__main__.py" else program, *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """Versions and hardware, on which timings depend."""
    versions = {"python": platform.python_version(), **_versions()}
    return {"versions": versions, "commit": commit(Path(__file__).parent.parent), "hardware": _hardware()}


def commit(folder: Path) -> str | None:
    """Commit of the working tree `folder`, with a "+" where files were changed since; None if it is none of Git's."""
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
    import torch  # nothing else in evaluation needs it

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
