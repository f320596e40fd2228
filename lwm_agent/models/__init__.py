"""World models: torch only. A new one is a file and a line of `MODELS`."""

from __future__ import annotations

from .heads import Heads
from .lewm import PREDICTOR_SETTINGS, PREDICTORS, PRESETS, LeWorldModel

MODELS = {"lewm": LeWorldModel}

__all__ = ["MODELS", "PREDICTORS", "PREDICTOR_SETTINGS", "PRESETS", "Heads", "LeWorldModel"]
