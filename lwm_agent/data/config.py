"""Settings of conversions of data sets. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..envs import ENVS
from ..errors import UserError
from ..validation import Choices, Config, Option, OutputFile, Range


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Config):
    """Data set to convert.

    Attributes:
        source: file or folder of LeRobot, Diffusion Policy (Zarr), robomimic, Minari or OGBench's visual-cube-single, a
            folder of npz files or videos, or the id of a LeRobot data set of the Hugging Face hub.
        out: HDF5 file to write.
        camera: camera to take; it must be named where there are several.
        image_size: side of the frames, px.
        squash: squeeze pictures into a square, instead of cutting out the square in their middle.
        action_columns: columns of the actions to take; by default all.
        env: environment that shows such frames and takes such actions, where there is one, to be evaluated in.
        env_kwargs: its arguments.
        revision: branch, tag or commit of the hub's repository; by default its newest.
    """

    source: Annotated[str, Option(positional=True)]
    out: OutputFile
    camera: str | None = None
    image_size: Annotated[int, Range(least=16, most=512)] = 64
    squash: bool = False
    action_columns: Annotated[tuple[int, ...], Range(least=0)] = ()
    env: Annotated[str | None, Choices(ENVS, "MODULE:NAME of your own")] = None
    env_kwargs: Annotated[Mapping[str, Any], Option(group="env")] = field(default_factory=dict)
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env is None and self.env_kwargs:
            raise UserError("--set env belongs to an environment: name it with --env")
