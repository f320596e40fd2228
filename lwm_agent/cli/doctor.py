"""`lwm-agent doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from ..envs.opengl import BACKENDS, REMEDY, try_backend

CUBE_PACKAGES = ("mujoco", "ogbench")
PACKAGES = ("lwm-agent", "torch", "numpy", "gymnasium", "stable-baselines3", "pymunk", *CUBE_PACKAGES)
SECONDS = 20.0  # for a program to say its version


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        found: what there is.
        remedy: what to do about it, None where all is well.
    """

    name: str
    found: str
    remedy: str | None = None


def checks() -> Iterator[Check]:
    """Looks at one thing after the other; a minute or two at worst, seconds where all is well."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield _computing()
    yield _drawing()
    yield _ffmpeg()
    yield Check("display", _display() or "none; only windows (render_mode human) need one")
    yield _checkpoints()


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 13):
        return Check("Python", found)
    return Check("Python", found, "ogbench, hence the cube, needs Python 3.10 to 3.12; all else works")


def _package(name: str) -> Check:
    try:
        return Check(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        lacking = name in CUBE_PACKAGES and sys.version_info >= (3, 13)  # of which the Python above tells
        return Check(name, "not installed", None if lacking else f"pip install {name}")


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
    given = os.environ.get("MUJOCO_GL")
    problems = []
    for name in [given.lower()] if given else BACKENDS:
        problem = try_backend(name)
        if problem is None:
            return Check("MuJoCo draws with", name + (" (from MUJOCO_GL)" if given else ""))
        problems.append(f"{name}: {problem}")
    unset = f"Unset MUJOCO_GL={given}, or: {REMEDY}" if given else REMEDY
    return Check("MuJoCo draws with", "nothing; " + "; ".join(problems), unset)


def _ffmpeg() -> Check:
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=SECONDS, check=True)
        return Check("ffmpeg", " ".join(done.stdout.split()[:3]))
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Check("ffmpeg", str(error), "pip install --force-reinstall imageio-ffmpeg; videos need it")


def _display() -> str | None:
    return os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")


def _checkpoints() -> Check:
    try:
        from ..checkpoint import Checkpoint, available

        names = available()
        for name in names:
            Checkpoint.load(name)
    except (ImportError, OSError, ValueError) as error:
        return Check("checkpoints", str(error), "pip install --force-reinstall lwm-agent")
    return Check("checkpoints", ", ".join(names) or "none")
