"""World models, and policies to compare them with: torch only. A new one is a file and a line of `MODELS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import lewm
from .base import LatentModel, LatentPredictor, WorldModel
from .heads import Heads
from .lewm import PREDICTORS, LeWorldModel

__all__ = ["MODELS", "PREDICTORS", "Heads", "LatentModel", "LatentPredictor", "LeWorldModel", "ModelSpec", "WorldModel"]


@dataclass(frozen=True)
class ModelSpec:
    """A kind of model.

    Attributes:
        model: its class.
        presets: constructor arguments by preset; "tiny" is the command line's default.
        recipes: settings of `TrainConfig` by preset.
    """

    model: type[LatentModel]
    presets: Mapping[str, Mapping[str, Any]]
    recipes: Mapping[str, Mapping[str, Any]]


MODELS: dict[str, ModelSpec] = {"lewm": ModelSpec(LeWorldModel, lewm.PRESETS, lewm.RECIPES)}
