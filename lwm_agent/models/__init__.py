"""World models: torch only. A new one is a file and a line of `MODELS`."""

from __future__ import annotations

from .heads import Heads
from .lewm import PRESETS, LeWorldModel

MODELS = {"lewm": LeWorldModel}

__all__ = ["MODELS", "PRESETS", "Heads", "LeWorldModel"]
