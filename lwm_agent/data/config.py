"""Settings of conversions of data sets. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..validation import Config, Option, OutputFile


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Config):
    """Data set to convert.

    Attributes:
        source: visual-cube-single-play-v0.npz, or another of OGBench's visual-cube-single data sets.
        out: HDF5 file to write.
    """

    source: Annotated[Path, Option(positional=True)]
    out: OutputFile
