"""Planning with latent world models. Importing the package registers its environments and leaves torch alone."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .envs import register, register_env

if TYPE_CHECKING:
    from .agent.agent import Agent as Agent
    from .checkpoint import Checkpoint as Checkpoint
    from .data.writer import TrajectoryWriter as TrajectoryWriter
    from .envs.base import GoalImageEnv as GoalImageEnv
    from .envs.quantities import Quantity as Quantity
    from .eval import shipped_tasks as shipped_tasks
    from .planners import Budget as Budget
    from .planners import make_planner as make_planner
    from .recording import RecordImagination as RecordImagination
    from .wrappers import LatentObservation as LatentObservation

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "Budget",
    "Checkpoint",
    "GoalImageEnv",
    "LatentObservation",
    "Quantity",
    "RecordImagination",
    "TrajectoryWriter",
    "__version__",
    "make_planner",
    "register_env",
    "shipped_tasks",
]

# Public names are imported at their first use, since their modules import torch.
_MODULES = {
    "Agent": ".agent.agent",
    "Budget": ".planners",
    "Checkpoint": ".checkpoint",
    "GoalImageEnv": ".envs.base",
    "LatentObservation": ".wrappers",
    "RecordImagination": ".recording",
    "Quantity": ".envs.quantities",
    "TrajectoryWriter": ".data.writer",
    "make_planner": ".planners",
    "shipped_tasks": ".eval",
}

# Torch's OpenMP threads spin while they wait for each other, by default for so long that beside another busy process a
# plan takes over ten times as long, since the one they wait for has no core. Too short a spin puts them to sleep
# between two small operations: with 2000, a decision on two idle cores takes 54 ms instead of 42, and 138 instead of
# 201 beside a busy process. OpenMP reads this when torch is first imported; a value set by the user is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _use_one_thread() -> None:
    """Limits torch to one thread in a forked child.

    Torch's threads do not survive a fork, and GNU's OpenMP waits for them forever (pytorch/pytorch 17199).
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_use_one_thread)

register()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
