"""Settings of `lwm-agent surprise`. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..validation import Config, Count, OutputFolder, Range, Seed


@dataclass(frozen=True, kw_only=True)
class SurpriseConfig(Config):
    """Events to surprise a world model with.

    Attributes:
        checkpoint: folder or name of a checkpoint.
        data: file of trajectories; of one that the checkpoint was trained on, only its held-out episodes are used.
        out: folder of results.json and the figures.
        clips: clips for each kind of event.
        steps: model steps that are judged from the event on, after as many without it.
        events: names of the events; by default all of the environment's.
        seed: source of every random choice.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
    """

    checkpoint: str
    data: Path
    out: OutputFolder = Path("out/surprise")
    clips: Annotated[int, Range(least=2)] = 200
    steps: Count = 4
    events: tuple[str, ...] = ()
    seed: Seed = 0
    device: str = "auto"
