"""Settings of explanations. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..validation import Config, Count, Option, OutputFolder, Range


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Config):
    """Explanation of the failures in an evaluation.

    Attributes:
        results: results.json of the evaluation.
        checkpoint: folder or name of its checkpoint; by default the one in this package that they are of.
        tasks: its task file, if it had one.
        failures: most failed tasks to explain, from the first.
        films: most of them to film, those of which the model was most wrong.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
        out: folder of the page, the films and the numbers.
    """

    results: Annotated[Path, Option(positional=True)]
    checkpoint: str | None = None
    tasks: Path | None = None
    failures: Count = 50
    films: Annotated[int, Range(least=0, most=20)] = 4
    device: str = "auto"
    out: OutputFolder = Path("out/explanation")
