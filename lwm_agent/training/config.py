"""Settings of trainings. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from ..errors import UserError

RECIPES: dict[str, dict[str, Any]] = {
    "base": {"learning_rate": 5e-5, "batch_size": 128, "clip_length": 4, "steps": 100_000},
    "tiny": {"learning_rate": 8e-4, "batch_size": 80, "clip_length": 6, "steps": 8_500},
}
"""Settings of `TrainConfig` by preset; those of `base` are the paper's (appendix D and the released configuration)."""

OWN_OPTIONS = ("data", "out", "env", "preset", "model", "steps", "seed", "device", "num_devices", "precision", "track")
"""Settings that have an option of their own on the command line, beside ``--set train.NAME``."""

PRECISIONS = ("auto", "bf16-mixed", "32-true")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. `TrainConfig.from_preset` fills in what a preset prescribes.

    Attributes:
        data: HDF5 files of trajectories of one environment; each fills the same share of every batch, however long it
            is.
        out: folder of the run: the checkpoint, its training state and its logs.
        env: name in `ENVS`, or a Gymnasium id.
        preset: name in `PRESETS`.
        model: constructor arguments of the model that differ from the preset's.
        steps: optimisation steps.
        batch_size: clips in a step, over all processes.
        clip_length: L, frames of a clip.
        learning_rate: peak of the schedule: linear warm-up, then half a cosine to zero.
        weight_decay: of AdamW.
        warmup: share of the steps that warm up.
        clip_norm: largest norm of the gradient.
        precision: "bf16-mixed", "32-true", or "auto": bfloat16 where it is faster.
        validation: share of the episodes held out.
        log_every: steps between two lines of the log.
        validate_every: steps between two looks at validation data.
        save_every: steps between two saves of the training state.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
        num_devices: processes that train together.
        track: log to Weights & Biases too.
    """

    data: tuple[str, ...]
    out: str
    env: str = "pusht"
    preset: str = "tiny"
    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 8_500
    batch_size: int = 80
    clip_length: int = 6
    learning_rate: float = 8e-4
    weight_decay: float = 1e-3
    warmup: float = 0.03
    clip_norm: float = 1.0
    precision: str = "auto"
    validation: float = 0.05
    log_every: int = 10
    validate_every: int = 250
    save_every: int = 500
    seed: int = 0
    device: str = "auto"
    num_devices: int = 1
    track: bool = False

    def __post_init__(self) -> None:
        from ..models import PRESETS

        if self.preset not in PRESETS:
            raise UserError(f"preset={self.preset!r} is unknown: choose one of {', '.join(PRESETS)}")
        for name in ("steps", "batch_size", "validate_every", "save_every", "num_devices", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)} must be positive")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision!r} is unknown: choose one of {', '.join(PRECISIONS)}")
        if self.clip_length < 2:
            raise UserError(f"clip_length={self.clip_length} must be at least 2: a frame and the one to predict")
        if self.batch_size % self.num_devices:
            raise UserError(f"batch_size={self.batch_size} must be a multiple of num_devices={self.num_devices}")
        clips = self.batch_size // self.num_devices
        if isinstance(self.data, str) or not 0 < len(self.data) <= clips:
            raise UserError(
                f"data={self.data!r} must be a tuple of files, from one to the {clips} clips of a process (batch_size "
                "/ num_devices)"
            )

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> TrainConfig:
        """The preset's recipe with `settings` on top; an unknown one is an error that lists them all."""
        known = {item.name for item in fields(cls)}
        if settings.keys() - known:
            unknown = ", ".join(sorted(settings.keys() - known))
            raise UserError(f"unknown training settings {unknown}: choose from {', '.join(sorted(known))}")
        return cls(preset=preset, **{**RECIPES.get(preset, {}), **settings})

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the preset's recipe, but for what has an option of its own on the command line."""
        usual = asdict(TrainConfig.from_preset(self.preset, data=self.data, out=self.out))
        return differing(self, {name: value for name, value in usual.items() if name not in OWN_OPTIONS})


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """How to train a part of a checkpoint on its latents.

    Attributes:
        checkpoint: folder or name of the checkpoint; all else in it stays as it is.
        data: HDF5 files of trajectories, those of the world model or others of the same environment; each file fills
            the same share of every batch, however long it is.
        out: folder for the new checkpoint; None changes `checkpoint` itself.
        steps: optimisation steps.
        batch_size: examples in a step.
        learning_rate: peak of a warm-up and half a cosine.
        weight_decay: of AdamW.
        warmup: share of the steps that warm up.
        validation: share of the episodes held out.
        save_every: steps between two savings of what an interrupted training needs to go on.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
    """

    checkpoint: str
    data: tuple[str, ...]
    out: str | None = None
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-3
    warmup: float = 0.03
    validation: float = 0.05
    save_every: int = 500
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        self.check_positive("steps", "batch_size", "learning_rate", "save_every")
        if isinstance(self.data, str) or not 0 < len(self.data) <= self.batch_size:
            raise UserError(f"data={self.data!r} must be a tuple of files, from one to batch_size={self.batch_size}")

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, but for what has an option of its own on the command line."""
        named = ("out", "steps", "seed", "device", "save_every")
        optional = [item for item in fields(self) if item.default is not MISSING and item.name not in named]
        return differing(self, {item.name: item.default for item in optional})

    def check_positive(self, *names: str) -> None:
        """Refuses settings that are not above 0."""
        for name in names:
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)} must be positive")


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(LatentsConfig):
    """How to train the heads; an example is a pair of frames.

    Attributes:
        width: hidden width of the actor.
        max_steps: the most model steps between the frames of a pair.
    """

    steps: int = 8_000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    width: int = 384
    max_steps: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("width", "max_steps")


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(LatentsConfig):
    """How to train the predictor on; an example is a clip.

    Attributes:
        clip_length: L, frames of a clip.
        model: constructor arguments of a new predictor, trained from the start in the place of the checkpoint's, such
            as ``{"predictor": "mlp"}``; those not given stay as they are. Empty trains the checkpoint's own on.
    """

    steps: int = 4_000
    batch_size: int = 512
    learning_rate: float = 8e-4
    clip_length: int = 6
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ..models import PREDICTOR_SETTINGS

        super().__post_init__()
        if self.clip_length < 2:
            raise UserError(f"clip_length={self.clip_length} must be at least 2: a frame and the one to predict")
        for name in self.model.keys() - {*PREDICTOR_SETTINGS}:
            raise UserError(f"model.{name} is not of the predictor: choose among {', '.join(PREDICTOR_SETTINGS)}")


def differing(config: Any, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Of the `usual` settings, what `config` has otherwise."""
    return {name: getattr(config, name) for name, value in usual.items() if getattr(config, name) != value}
