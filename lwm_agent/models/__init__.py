"""World models, and policies to compare them with: torch only. A new one is a file and a line of `MODELS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import dino_wm, dreamer, gcbc, lewm
from .base import LatentModel, LatentPredictor, WorldModel
from .dino_wm import DinoWM
from .dreamer import Dreamer
from .gcbc import GCBC
from .heads import Heads
from .lewm import PREDICTORS, LeWorldModel

__all__ = [
    "GCBC",
    "MODELS",
    "PREDICTORS",
    "DinoWM",
    "Dreamer",
    "Heads",
    "LatentModel",
    "LatentPredictor",
    "LeWorldModel",
    "ModelSpec",
    "WorldModel",
]


@dataclass(frozen=True)
class ModelSpec:
    """A kind of model.

    Attributes:
        model: its class.
        presets: constructor arguments by preset.
        recipes: settings of `TrainConfig` by preset.
    """

    model: type[LatentModel]
    presets: Mapping[str, Mapping[str, Any]]
    recipes: Mapping[str, Mapping[str, Any]]

    @property
    def default_preset(self) -> str:
        """The command line's default: "tiny", or the first where there is none."""
        return "tiny" if "tiny" in self.presets else next(iter(self.presets))


MODELS: dict[str, ModelSpec] = {
    "lewm": ModelSpec(LeWorldModel, lewm.PRESETS, lewm.RECIPES),
    "dino-wm": ModelSpec(DinoWM, dino_wm.PRESETS, dino_wm.RECIPES),
    "dino-wm-lite": ModelSpec(DinoWM, dino_wm.LITE_PRESETS, dino_wm.LITE_RECIPES),
    "dreamer": ModelSpec(Dreamer, dreamer.PRESETS, dreamer.RECIPES),
    "gcbc": ModelSpec(GCBC, gcbc.PRESETS, gcbc.RECIPES),
}
