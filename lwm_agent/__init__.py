"""Model-based planning with latent world models. Importing it registers the environments, not torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .envs import register

if TYPE_CHECKING:
    from .agent import Agent as Agent

__version__ = "0.1.0"
__all__ = ["Agent", "__version__"]

register()


def __getattr__(name: str) -> Any:
    if name == "Agent":
        from .agent import Agent

        return Agent
    raise AttributeError(f"module 'lwm_agent' has no attribute {name!r}")
