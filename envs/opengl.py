"""Choice of the OpenGL that draws MuJoCo's pictures, by a trial in another process before mujoco is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec

from ..errors import MachineError, UserError

BACKENDS = {"darwin": ("cgl",), "win32": ("glfw",)}.get(sys.platform, ("egl", "osmesa"))
TRIAL_SECONDS = 60.0
PACKAGES = {"egl": "libegl1 libgl1-mesa-dri libopengl0", "osmesa": "libosmesa6"}
REMEDY = f"On Debian and Ubuntu: apt-get install {', or '.join(PACKAGES.values())}"


# Mesa then draws in the calling thread. Its own threads do not survive a fork, after which drawing would hang; they
# draw no faster here.
os.environ.setdefault("LP_NUM_THREADS", "0")


@cache
def choose_backend() -> str:
    """MUJOCO_GL where it is set, else the first backend that draws a frame.

    Sets MUJOCO_GL, which mujoco and dm_control read once, when they are imported. Processes started from this one
    inherit it and need no trial. Raises `MachineError` if no backend works.
    """
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"].lower()
    problems = []
    for name in BACKENDS:
        problem = try_backend(name)
        if problem is None:
            os.environ["MUJOCO_GL"] = name
            return name
        problems.append(f"{name}: {problem}")
    raise MachineError(f"MuJoCo cannot draw on this machine ({'; '.join(problems)}). {REMEDY}")


@cache
def prepare_drawing() -> None:
    """Lets environments of others, which draw with MuJoCo or pygame themselves, do so without a display.

    Call it before such an environment is imported. On Linux without a display, it chooses the OpenGL for MuJoCo
    (Gymnasium's own choice fails there) and SDL's dummy driver for pygame. It keeps what the environment variables say,
    and changes nothing where there is a display. Where MuJoCo cannot draw, nothing is said before something draws with
    it: see `opengl_errors`.
    """
    if prepare_window() and find_spec("mujoco") is not None:
        with suppress(MachineError):
            choose_backend()


def prepare_window() -> bool:
    """Chooses SDL's dummy driver on Linux without a display, unless SDL_VIDEODRIVER is set; True without a display.

    SDL's own choice there draws by EGL. With its window, it ends the EGL display of the process, and MuJoCo's pictures.
    """
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return False
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    return True


@contextmanager
def opengl_errors() -> Iterator[None]:
    """Raises `MachineError` where the block fails because MuJoCo cannot draw on this machine.

    mujoco takes the OpenGL that MUJOCO_GL names when it is imported or when it draws, and raises errors of many
    classes: without libOSMesa, an AttributeError. If another process can draw, the error has another cause, and stays.
    """
    try:
        yield
    except (UserError, ModuleNotFoundError):
        raise
    except Exception as error:
        if find_spec("mujoco") is None:
            raise
        backend = os.environ.get("MUJOCO_GL", "").lower()
        problem = try_backend(backend) if backend else None
        if problem is not None:
            raise unusable(backend, problem) from error
        if not backend and prepare_window():
            choose_backend()
        raise


def unusable(backend: str, problem: object) -> MachineError:
    """The error that this backend has a `problem`, with the packages to install."""
    known = backend in PACKAGES
    fix = f"on Debian and Ubuntu, apt-get install {PACKAGES[backend]}" if known else f"choose {' or '.join(BACKENDS)}"
    return MachineError(f"MUJOCO_GL={backend} cannot draw on this machine ({problem}): {fix}, or unset MUJOCO_GL")


def try_backend(name: str) -> str | None:
    """The problem when a backend draws a frame, None if there is none; it can neither hang nor crash the caller."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", "from lwm_agent.envs.mujoco_rendering import draw_ball; draw_ball()"],
            env={**os.environ, "MUJOCO_GL": name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no frame within {TRIAL_SECONDS:g} s"
    if trial.returncode == 0:
        return None
    return (trial.stderr.strip().splitlines() or [f"ended with code {trial.returncode}"])[-1]
