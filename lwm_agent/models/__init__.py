"""World models, and policies to compare them with: torch only. A new one is a file and a line of `MODELS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from ..errors import UserError
from ..imports import import_named, import_requested
from ..validation import check_arguments
from . import dino_wm, dreamer, gcbc, lewm
from .base import LatentModel, LatentPredictor, Painter, WorldModel
from .decoder import Decoder
from .dino_wm import DinoWM
from .dreamer import Dreamer
from .gcbc import GCBC
from .heads import Heads
from .lewm import PREDICTORS, LeWorldModel

__all__ = [
    "GCBC",
    "MODELS",
    "PREDICTORS",
    "Decoder",
    "DinoWM",
    "Dreamer",
    "Heads",
    "LatentModel",
    "LatentPredictor",
    "LeWorldModel",
    "ModelSpec",
    "Painter",
    "WorldModel",
    "find_model",
    "import_model",
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

    @property
    def defaults(self) -> dict[str, Any]:
        """Default of each constructor argument, by name; `inspect.Parameter.empty` of one that has none."""
        return {name: argument.default for name, argument in signature(self.model).parameters.items()}

    def build(self, settings: Mapping[str, Any]) -> LatentModel:
        """An untrained model with `settings`, arguments of its constructor.

        Raises:
            UserError: the constructor has no such argument, or refuses a value; the message names it.
        """
        check_arguments("model", self.model, settings)
        try:
            return self.model(**settings)
        except UserError:
            raise
        except Exception as error:  # a constructor may refuse its arguments in any way
            stated = ", ".join(f"model.{name}={value!r}" for name, value in settings.items())
            raise UserError(f"no {self.model.__name__} can be made with {stated}: {error}") from error


MODELS: dict[str, ModelSpec] = {
    "lewm": ModelSpec(LeWorldModel, lewm.PRESETS, lewm.RECIPES),
    "dino-wm": ModelSpec(DinoWM, dino_wm.PRESETS, dino_wm.RECIPES),
    "dino-wm-lite": ModelSpec(DinoWM, dino_wm.LITE_PRESETS, dino_wm.LITE_RECIPES),
    "dreamer": ModelSpec(Dreamer, dreamer.PRESETS, dreamer.RECIPES),
    "gcbc": ModelSpec(GCBC, gcbc.PRESETS, gcbc.RECIPES),
}


def find_model(name: str) -> ModelSpec:
    """The model of this name, which may come from a file: nothing but what a user asked for is imported.

    Raises:
        UserError: there is no such model.
    """
    if name not in MODELS:
        import_requested()
    if name not in MODELS:
        raise UserError(
            f"model={name!r} is unknown: choose one of {', '.join(MODELS)}; if a module of yours puts it into MODELS, "
            f"import it first, or name it: `lwm-agent --import MODULE ...`"
        )
    return MODELS[name]


def import_model(name: str) -> str:
    """The name in `MODELS` of the model that a user asks for; ``module:name`` imports a module, which registers it.

    Raises:
        UserError: there is no such module.
    """
    module, colon, own = name.rpartition(":")
    if colon:
        import_named(module, f"model={name!r}")
    return own
