"""Settings of the window. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..agent.config import AgentConfig
from ..validation import Count, OutputFile, PositiveFloat, Range


@dataclass(frozen=True, kw_only=True)
class PlayConfig(AgentConfig):
    """Agent to play with.

    Attributes:
        offset: environment steps from start to goal of the tasks to begin with; there are some for 25, 50, 75 and 100.
        tasks: task file to use instead.
        task: number of the first task.
        seconds: time after which the window closes; by default it stays.
        screenshot: PNG to write when the window closes.
    """

    offset: Count = 50
    tasks: Path | None = None
    task: Annotated[int, Range(least=0)] = 0
    seconds: PositiveFloat | None = None
    screenshot: OutputFile | None = None
