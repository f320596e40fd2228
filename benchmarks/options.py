"""Options of the benchmarks that solve validation tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EnvOption = Annotated[str, typer.Option(help="pusht, or cube, whose simulator is slow.")]
CheckpointOption = Annotated[str | None, typer.Option(help="Folder or name (default: that of the package).")]
TasksOption = Annotated[int, typer.Option(help="Validation tasks, from the first.", min=1, max=200)]
OffsetOption = Annotated[int, typer.Option(help="Environment steps from start to goal: 25, 50, 75 or 100.")]
SeedOption = Annotated[int, typer.Option(help="Of all that is random.")]
OutOption = Annotated[Path | None, typer.Option(help="JSON file to write (default: out/ and the environment).")]
