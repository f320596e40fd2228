"""Model-based planning with latent world models. Importing it registers the environments, not torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .envs import register

if TYPE_CHECKING:
    from .agent.agent import Agent as Agent

__version__ = "0.1.0"
__all__ = ["Agent", "__version__"]

# Torch's OpenMP threads spin while they wait for each other, by default for so long that beside another busy process a
# plan takes over ten times as long, since the one they wait for has no core. Too short a spin puts them to sleep
# between two small operations: with 2000, a decision on two idle cores takes 54 ms instead of 42, and 138 instead of
# 201 beside a busy process. OpenMP reads this when torch is first imported; what the user has set is left as it is.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

register()


def __getattr__(name: str) -> Any:
    if name == "Agent":
        from .agent.agent import Agent

        return Agent
    raise AttributeError(f"module 'lwm_agent' has no attribute {name!r}")
