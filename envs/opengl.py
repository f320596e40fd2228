"""Which OpenGL draws MuJoCo's pictures: found by trying, in a process of its own, before mujoco is imported here."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

from ..errors import MachineError

BACKENDS = {"darwin": ("cgl",), "win32": ("glfw",)}.get(sys.platform, ("egl", "osmesa"))
TRIAL_SECONDS = 60.0
REMEDY = "On Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri libopengl0, or libosmesa6"


# Mesa then draws in the calling thread. Threads of its own do not survive a fork, after which drawing would hang; they
# draw no faster, and other cores have processes of their own.
os.environ.setdefault("LP_NUM_THREADS", "0")


@cache
def choose_backend() -> str:
    """MUJOCO_GL where it is set, else the first backend that draws a frame.

    Sets MUJOCO_GL, which mujoco and dm_control read once, when they are imported, and which spares processes started
    from this one the trial. Raises `RuntimeError` if no backend works.
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


def try_backend(name: str) -> str | None:
    """What goes wrong when a backend draws a frame, None if nothing does; it can neither hang nor crash the caller."""
    try:
        done = subprocess.run(
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
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
