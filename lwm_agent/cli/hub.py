"""Commands of the Hugging Face hub: push, pull."""

from __future__ import annotations

import typer

from ..experiments.config import PullConfig, PushConfig
from .options import command
from .progress import console


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "push", PushConfig)(push)
    command(app, "pull", PullConfig, "the same command goes on with what is left")(pull)


def push(config: PushConfig) -> None:
    """Upload a checkpoint to the Hugging Face hub, its scores on the card."""
    from ..experiments.hub import push as run

    console.print(f"wrote {run(config)}")


def pull(config: PullConfig) -> None:
    """Download a checkpoint from the Hugging Face hub."""
    from ..experiments.hub import pull as run

    checkpoint = run(config)
    console.print(f"wrote {config.out}: {checkpoint.name} for {checkpoint.env}")
