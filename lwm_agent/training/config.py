"""Settings of trainings. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar

from ..envs import ENVS, import_env
from ..envs.shifts import GENERAL, OWN_SHIFTS
from ..errors import UserError
from ..validation import (
    Choices,
    Config,
    NonNegative,
    Option,
    PositiveFloat,
    PositiveInt,
    Range,
    Seed,
    Share,
    check_arguments,
)

MODEL_NAMES = ("lewm", "dino-wm", "dino-wm-lite", "dreamer", "gcbc")
"""Names of `MODELS`, for help texts: importing the registry would import torch."""

OWN_OPTIONS = (
    *("data", "out", "env", "model", "preset", "model_settings", "init", "steps", "seed"),
    *("device", "num_devices", "precision", "track", "latent_cache"),
)
"""Settings that the model card does not list as ``--set train.NAME``."""

PRECISIONS = ("auto", "bf16-mixed", "32-true")

PRESETS_DEFAULT = Option(default="the preset's")
ClipLength = Annotated[int, Range(least=2)]
"""Frames of a clip: one, and at least one to predict."""
ValidationShare = Annotated[float, Range(above=0, under=1)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Training of a world model, or of a policy. `TrainConfig.from_preset` fills in what a preset prescribes.

    Attributes:
        data: HDF5 file of trajectories, or data of a format that `convert` reads; repeat it for several of one
            environment, which fill equal shares of a batch.
        out: folder of the run: the checkpoint (OUT/checkpoint), the training state and the logs.
        env: environment.
        model: kind of model: a world model (lewm, dino-wm, dino-wm-lite, dreamer) or a cloned policy (gcbc).
        preset: size of the model, mostly tiny (for CPUs) or base (the paper's).
        model_settings: arguments of the model that differ from the preset's.
        init: folder or name of a checkpoint that the training begins with, instead of random weights: its sizes and
            units are kept, its heads are not.
        steps: optimisation steps.
        batch_size: clips in a step, over all processes.
        clip_length: L, frames of a clip.
        learning_rate: peak of the schedule: linear warm-up, then half a cosine to zero.
        weight_decay: weight decay of AdamW.
        warmup: share of the steps that warm up.
        clip_norm: largest norm of the gradient.
        precision: precision of the products; auto is bfloat16 where it is faster.
        validation: share of the episodes that are held out.
        log_every: steps between two lines of the log.
        validate_every: steps between two validations.
        save_every: steps between two saves of the training state.
        seed: source of every random choice.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
        num_devices: processes that train together.
        track: log to Weights & Biases too.
        keep_state: keep the training state of a finished training, six times as large as the checkpoint: only with it
            can ``--resume`` train for more steps.
        latent_cache: folder where the latents of a frozen encoder are kept for later trainings; by default OUT/latents.
    """

    own_group: ClassVar[str | None] = "train"

    data: tuple[str, ...]
    out: Annotated[str, Option(path="folder")]
    env: Annotated[str, Choices(ENVS, "MODULE:NAME, or the name of your own data's")] = "pusht"
    model: Annotated[str, Choices(MODEL_NAMES, "MODULE:NAME of your own")] = "lewm"
    preset: Annotated[str, Option(default="tiny, or the model's first")] = "tiny"
    model_settings: Annotated[dict[str, Any], Option(group="model")] = field(default_factory=dict)
    init: str | None = None
    steps: Annotated[PositiveInt, PRESETS_DEFAULT] = 8_500
    batch_size: Annotated[PositiveInt, PRESETS_DEFAULT] = 80
    clip_length: Annotated[ClipLength, PRESETS_DEFAULT] = 6
    learning_rate: Annotated[PositiveFloat, PRESETS_DEFAULT] = 8e-4
    weight_decay: NonNegative = 1e-3
    warmup: Share = 0.03
    clip_norm: PositiveFloat = 1.0
    precision: Annotated[str, Choices(PRECISIONS)] = "auto"
    validation: ValidationShare = 0.05
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 250
    save_every: PositiveInt = 500
    seed: Seed = 0
    device: str = "auto"
    num_devices: PositiveInt = 1
    track: bool = False
    keep_state: bool = False
    latent_cache: Annotated[str, Option(path="folder")] | None = None

    def __post_init__(self) -> None:
        from ..models import find_model

        if isinstance(self.data, str):
            raise UserError(f"data={self.data!r} must be a tuple of files")
        super().__post_init__()
        import_env(self.env)
        kind = find_model(self.model)
        check_arguments("model", kind.model, self.model_settings)
        presets = kind.presets
        if self.preset not in presets:
            raise UserError(f"preset={self.preset!r} is unknown: choose one of {', '.join(presets)} for {self.model}")
        if ":" in self.device and self.num_devices > 1:
            raise UserError(
                f"device={self.device!r} is one device: leave out its number, or num_devices={self.num_devices}"
            )
        if self.batch_size % self.num_devices:
            raise UserError(f"batch_size={self.batch_size} must be a multiple of num_devices={self.num_devices}")
        clips = self.batch_size // self.num_devices
        if not 0 < len(self.data) <= clips:
            raise UserError(
                f"data={self.data!r} must be a tuple of files, from one to the {clips} clips of a process (batch_size "
                "/ num_devices)"
            )

    @classmethod
    def from_options(cls, **options: Any) -> TrainConfig:
        """Settings on top of the recipe of the preset; a model may be ``module:name``."""
        from ..models import import_model

        if "model" in options:
            options["model"] = import_model(options["model"])
        return cls.from_preset(options.pop("preset", None) or _default_preset(options), **options)

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> TrainConfig:
        """The preset's recipe with `settings` on top; an unknown one is an error that lists them all."""
        names = {item.name for item in fields(cls)}
        unknown = sorted(settings.keys() - names)
        if unknown:
            raise UserError(f"unknown training settings {', '.join(unknown)}: choose from {', '.join(sorted(names))}")
        return cls(preset=preset, **{**_recipe(settings.get("model", cls.model), preset), **settings})

    @property
    def image_size(self) -> int:
        """Side of the frames that the model takes, px: of its settings, its preset, or by default.

        Raises:
            UserError: none of them tells.
        """
        if self.init is not None:
            return trained_image_size(self.init)
        from ..models import find_model

        kind = find_model(self.model)
        size = {**kind.defaults, **kind.presets[self.preset], **self.model_settings}.get("image_size")
        if not isinstance(size, int):
            raise UserError(
                f"model={self.model} has no usual size of frames: state it, as in --set model.image_size=64"
            )
        return size

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that differ from the preset's recipe, but for `OWN_OPTIONS`."""
        usual = asdict(TrainConfig.from_preset(self.preset, model=self.model, data=self.data, out=self.out))
        return differing(self, {name: value for name, value in usual.items() if name not in OWN_OPTIONS})


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """Released LeWorldModel weights to make a checkpoint of.

    Attributes:
        source: folder with config.json and weights.pt, or an id of the Hugging Face hub.
        out: folder of the checkpoint.
        env: environment.
        revision: branch, tag or commit of the hub's repository; by default its newest.
        data: HDF5 file that the weights were trained on, whose actions give their mean, deviation and bounds.
        action_mean: without data, the mean of each number of an action over the training data.
        action_std: the standard deviation of each.
        action_low: the smallest action that may be planned; by default that of the environment.
        action_high: the largest.
        env_settings: conventions of the environment that the weights were trained in.
    """

    source: Annotated[str, Option(positional=True)]
    out: Annotated[str, Option(path="folder")]
    env: Annotated[str, Choices(ENVS, "MODULE:NAME, or any other name")] = "pusht"
    revision: str | None = None
    data: tuple[str, ...] = ()
    action_mean: tuple[float, ...] = ()
    action_std: tuple[float, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    env_settings: Annotated[Mapping[str, Any], Option(group="env")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        import_env(self.env)
        stated = (self.action_mean, self.action_std, self.action_low, self.action_high)
        if bool(self.data) == bool(self.action_mean and self.action_std):
            raise UserError(
                "the units of actions are not in released weights: name the data that they were trained on (--data), "
                "or state --action-mean and --action-std"
            )
        if self.data and (any(stated) or self.env_settings):
            raise UserError("--data gives the units and conventions: leave out those that are stated beside it")


@dataclass(frozen=True, kw_only=True)
class PartConfig(Config):
    """Training of a part of a checkpoint, its other parts as they are.

    Attributes:
        checkpoint: folder or name of the checkpoint; its other parts stay as they are.
        data: HDF5 file of trajectories, or data of a format that `convert` reads; repeat it for several of one
            environment, which fill equal shares of a batch.
        out: folder of the new checkpoint; by default `checkpoint` itself is changed.
        steps: optimisation steps.
        batch_size: examples in a step.
        learning_rate: peak of a warm-up and half a cosine.
        weight_decay: weight decay of AdamW.
        warmup: share of the steps that warm up.
        validation: share of the episodes that are held out; of a file that the world model was trained on, the
            episodes that its training has held out.
        save_every: steps between two saves of the training state.
        seed: source of every random choice.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
    """

    checkpoint: str
    data: tuple[str, ...]
    out: Annotated[str, Option(path="folder")] | None = None
    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegative = 1e-3
    warmup: Share = 0.03
    validation: ValidationShare = 0.05
    save_every: PositiveInt = 500
    seed: Seed = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        files = f"data={self.data!r} must be a tuple of files, from one to batch_size={self.batch_size}"
        if isinstance(self.data, str):
            raise UserError(files)
        super().__post_init__()
        if not 0 < len(self.data) <= self.batch_size:
            raise UserError(files)

    @property
    def image_size(self) -> int:
        """Side of the frames that the checkpoint was trained on, px."""
        return trained_image_size(self.checkpoint)

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that differ from the defaults, but for those that do not change what is learned."""
        named = ("out", "steps", "seed", "device", "save_every", "latent_cache")
        optional = [item for item in fields(self) if item.default is not MISSING and item.name not in named]
        return differing(self, {item.name: item.default for item in optional})


@dataclass(frozen=True, kw_only=True)
class LatentsConfig(PartConfig):
    """Training of a part of a checkpoint on the latents of its frozen encoder.

    Attributes:
        latent_cache: folder where the latents of all frames are kept for later trainings. None keeps them in memory,
            or, if they do not fit in a quarter of the free memory, beside the new checkpoint in ``OUT.latents``.
    """

    latent_cache: Annotated[str, Option(path="folder")] | None = None


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(LatentsConfig):
    """Training of the heads; an example is a pair of frames.

    Attributes:
        width: hidden width of actor and contrast.
        max_steps: largest number of model steps between the frames of a pair.
        contrast_steps: largest number of model steps between frames that the contrast holds for near (12 is a good
            one on Push-T); 0 trains none.
    """

    own_group: ClassVar[str | None] = "heads"

    steps: PositiveInt = 8_000
    batch_size: PositiveInt = 1024
    learning_rate: PositiveFloat = 1e-3
    width: PositiveInt = 384
    max_steps: PositiveInt = 25
    contrast_steps: Annotated[int, Range(least=0)] = 0


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(LatentsConfig):
    """Training of a decoder; an example is a frame.

    Attributes:
        focus: how much more a pixel weighs that is far from the mean picture, such as a small agent's.
    """

    own_group: ClassVar[str | None] = "decoder"

    steps: PositiveInt = 4_000
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    focus: NonNegative = 10.0


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(LatentsConfig):
    """Training of the predictor; an example is a clip.

    Attributes:
        clip_length: L, frames of a clip.
        model_settings: arguments of a new predictor that takes the place of the checkpoint's, such as
            ``predictor=mlp``; those not named stay as they are. Without any, the checkpoint's own is trained on.
    """

    own_group: ClassVar[str | None] = "predictor"

    steps: PositiveInt = 4_000
    batch_size: PositiveInt = 512
    learning_rate: PositiveFloat = 8e-4
    clip_length: ClipLength = 6
    model_settings: Annotated[dict[str, Any], Option(group="model")] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(PartConfig):
    """Training of the encoder to see past what differs; an example is a frame, and its state drawn with a shift.

    Attributes:
        shift: NAME=STRENGTH of what may differ, such as agent-color=1 (see ``lwm-agent robustness``).
        together: share of the pictures that have all the shifts at once; the others have one of them.
        init: folder or name of a checkpoint whose encoder the training begins with, such as that of an earlier
            training with shifts; by default that of `checkpoint`, which says in either case what is to be seen.
    """

    own_group: ClassVar[str | None] = "encoder"

    shift: Annotated[tuple[str, ...], Choices(GENERAL, OWN_SHIFTS)]
    together: Share = 0.5
    init: str | None = None
    steps: PositiveInt = 4_000
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 3e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shift:
            raise UserError("shift=() names nothing that may differ: name at least one, such as agent-color=1")


def trained_image_size(checkpoint: str) -> int:
    """Side of the frames that the model in a checkpoint takes, px."""
    from ..checkpoint import find_checkpoint
    from ..checkpoint_config import read_config

    return int(read_config(find_checkpoint(checkpoint))["model_config"]["image_size"])


def _default_preset(options: Mapping[str, Any]) -> str:
    """The preset of a model for which none was named."""
    from ..models import MODELS

    model = options.get("model", TrainConfig.model)
    return MODELS[model].default_preset if model in MODELS else TrainConfig.preset


def _recipe(model: str, preset: str) -> Mapping[str, Any]:
    """Settings of `TrainConfig` that a preset prescribes; none where there is no such preset."""
    from ..models import MODELS

    return MODELS[model].recipes.get(preset, {}) if model in MODELS else {}


def differing(config: Any, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `config` for the settings in which it differs from `usual`."""
    return {name: getattr(config, name) for name, value in usual.items() if getattr(config, name) != value}
