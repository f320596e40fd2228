"""Commands that look inside a model: probe."""

from __future__ import annotations

import typer

from ..experiments.probe_config import ProbeConfig
from .options import command
from .progress import bars, console, show_table


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "probe", ProbeConfig, "nothing was written; run it again")(probe)


def probe(config: ProbeConfig) -> None:
    """Read physical quantities from a model's latents: of frames, of imagined futures, of painted pictures."""
    from ..eval.probe_table import tables
    from ..experiments.probe import run_probe

    with bars() as update:
        report = run_probe(config, update)
    for table in tables(report):
        show_table(table.rich())
    straight = report.straightness
    console.print(
        f"effective rank {report.effective_rank:.1f} of {report.latent_size}; cosine of successive changes "
        f"{straight.value:.2f} [{straight.low:.2f}, {straight.high:.2f}]",
        highlight=False,
    )
    for name, reason in report.left_out.items():
        console.print(f"left out: {name}, which {reason}")
    console.print(f"wrote {config.out / 'results.json'}, table.md{' and figures' if config.plot else ''}")
