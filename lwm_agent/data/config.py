"""Settings of conversions of data sets. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..validation import Config, Option, OutputFile, Range


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
        revision: branch, tag or commit of the hub's repository; by default its newest.
    """

    source: Annotated[str, Option(positional=True)]
    out: OutputFile
    camera: str | None = None
    image_size: Annotated[int, Range(least=16, most=512)] = 64
    squash: bool = False
    action_columns: Annotated[tuple[int, ...], Range(least=0)] = ()
    revision: str | None = None
