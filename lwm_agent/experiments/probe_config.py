"""Settings of probes. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from ..errors import UserError
from ..validation import Config, Count, Option, OutputFolder, Range, Seed


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """Probes of a checkpoint's frozen latents.

    Attributes:
        checkpoint: folder or name of the checkpoint.
        data: HDF5 file of trajectories; repeat it for several of one environment, which are probed together.
        out: folder of results.json, table.md and the figures.
        frames: frames that probes are fitted on; a quarter as many are read, of other episodes.
        horizon: action blocks to imagine.
        validation: share of the episodes that are read; of a file that the model was trained on, the episodes that its
            training has held out.
        seed: source of every random choice.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
        plot: draw the figures.
    """

    checkpoint: str
    data: tuple[str, ...]
    out: OutputFolder = Path("out/probe")
    frames: Annotated[int, Range(least=200)] = 30_000
    horizon: Count = 10
    validation: Annotated[float, Range(above=0, under=1)] = 0.2
    seed: Seed = 0
    device: str = "auto"
    plot: Annotated[bool, Option(flag="--plot/--no-plot", default="yes, if matplotlib is installed")] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UserError("data=() must be at least one file: pass --data")

    @classmethod
    def from_options(cls, **options: Any) -> ProbeConfig:
        """Settings with the default of the plot, where it is not named."""
        return cls(**{"plot": find_spec("matplotlib") is not None, **options})
