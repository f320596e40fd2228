"""Commands that take checkpoints elsewhere: export, push, pull."""

from __future__ import annotations

import typer

from ..experiments.config import ExportConfig, PullConfig, PushConfig
from .options import command
from .progress import console


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "export", ExportConfig)(export)
    command(app, "push", PushConfig)(push)
    command(app, "pull", PullConfig, "the same command goes on with what is left")(pull)


def export(config: ExportConfig) -> None:
    """Write the graphs of a LeWorldModel checkpoint as ONNX, to plan without torch."""
    from ..experiments.export import export as run

    exported = run(config)
    for path in exported.files:
        console.print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    if exported.difference is not None:
        console.print(f"largest difference from torch in onnxruntime: {exported.difference:.1g}")


def push(config: PushConfig) -> None:
    """Upload a checkpoint to the Hugging Face hub, its scores on the card."""
    from ..experiments.hub import push as run

    console.print(f"wrote {run(config)}")


def pull(config: PullConfig) -> None:
    """Download a checkpoint from the Hugging Face hub."""
    from ..experiments.hub import pull as run

    checkpoint = run(config)
    console.print(f"wrote {config.out}: {checkpoint.name} for {checkpoint.env}")
