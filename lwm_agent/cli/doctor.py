"""`lwm-agent doctor`: checks of this machine, and remedies."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import typer
from rich.table import Table
from rich.text import Text

from ..envs.opengl import BACKENDS, REMEDY, try_backend
from ..errors import MachineError
from .progress import console

CUBE_PACKAGES = ("mujoco", "ogbench")
PACKAGES = ("lwm-agent", "torch", "numpy", "gymnasium", "stable-baselines3", "pymunk", *CUBE_PACKAGES)
SECONDS = 20.0  # for a program to print its version


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: subject of the check.
        found: state of it.
        remedy: advice, None where all is well.
    """

    name: str
    found: str
    remedy: str | None = None


def add_commands(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command()(doctor)


def doctor() -> None:
    """Check this machine, and say what to do about what does not work. Ends with 1 if anything is wrong."""
    table = Table("", "found", "what to do", box=None)
    healthy = True
    with console.status("looking"):
        for check in checks():
            mark = ("ok", "green") if check.remedy is None else ("problem", "red")
            table.add_row(Text.assemble(mark, f" {check.name}"), check.found, check.remedy or "")
            healthy = healthy and check.remedy is None
    console.print(table)
    raise typer.Exit(0 if healthy else 1)


def checks() -> Iterator[Check]:
    """Makes one check after the other: seconds where all is well, a minute or two at worst."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield _computing()
    yield _drawing()
    yield _ffmpeg()
    yield Check("display", _display() or "none; only windows (render_mode human) need one")
    yield _checkpoints()


def _python() -> Check:
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 13):
        return Check("Python", version)
    return Check("Python", version, "ogbench, hence the cube, needs Python 3.10 to 3.12; all else works")


def _package(name: str) -> Check:
    try:
        return Check(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        unavailable = name in CUBE_PACKAGES and sys.version_info >= (3, 13)  # the check of Python says so
        return Check(name, "not installed", None if unavailable else f"pip install {name}")


def _computing() -> Check:
    try:
        import torch

        from ..compute.device import fast_bf16, resolve_device

        device = resolve_device("auto")
        bf16 = "bf16 is fast" if fast_bf16(device) else "bf16 is no faster than fp32"
        return Check("torch computes on", f"{device.type}, {torch.get_num_threads()} threads; {bf16}")
    except (ImportError, OSError) as error:
        return Check("torch computes on", str(error), "pip install --force-reinstall torch")


def _drawing() -> Check:
    chosen = os.environ.get("MUJOCO_GL")
    problems = []
    for name in [chosen.lower()] if chosen else BACKENDS:
        problem = try_backend(name)
        if problem is None:
            return Check("MuJoCo draws with", name + (" (from MUJOCO_GL)" if chosen else ""))
        problems.append(f"{name}: {problem}")
    remedy = f"Unset MUJOCO_GL={chosen}, or: {REMEDY}" if chosen else REMEDY
    return Check("MuJoCo draws with", "nothing; " + "; ".join(problems), remedy)


def _ffmpeg() -> Check:
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        process = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=SECONDS, check=True)
        return Check("ffmpeg", " ".join(process.stdout.split()[:3]))
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Check("ffmpeg", str(error), "pip install --force-reinstall imageio-ffmpeg; videos need it")


def _display() -> str | None:
    return os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")


def _checkpoints() -> Check:
    try:
        from ..checkpoint import shipped_checkpoints

        found = [_usable(name) for name in shipped_checkpoints()]
    except (ImportError, OSError, ValueError) as error:
        return Check("checkpoints", str(error), "pip install --force-reinstall lwm-agent")
    return Check("checkpoints", ", ".join(found) or "none")


def _usable(name: str) -> str:
    """Name of a checkpoint, and what is missing where its frozen encoder comes with an extra."""
    from ..checkpoint import Checkpoint

    try:
        Checkpoint.load(name)
    except MachineError as error:
        return f"{name} (not usable yet: {error})"
    return name
