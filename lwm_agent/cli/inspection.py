"""Commands that look inside a checkpoint: diagnose."""

from __future__ import annotations

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..experiments.diagnosis.config import DiagnoseConfig
from .options import command
from .progress import bars, console, show_table


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "diagnose", DiagnoseConfig, "nothing was written; run it again")(diagnose)


def diagnose(config: DiagnoseConfig) -> None:
    """Find out why an agent fails: by its data, its latents, its predictor, its cost or its search."""
    from ..experiments.diagnosis.run import diagnose as run

    with bars() as update:
        diagnosis = run(config, update)
    table = Table("part", "", "what was found", "what to do", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for finding in diagnosis.findings:
        table.add_row(finding.part, finding.grade, finding.text, finding.advice)
    show_table(table)
    if diagnosis.trials is None:
        console.print(f"no trials: {diagnosis.no_trials}")
    console.print(diagnosis.verdict)
    console.print(f"wrote {config.output_dir / 'diagnosis.json'}, diagnosis.png and diagnosis.svg beside it")
