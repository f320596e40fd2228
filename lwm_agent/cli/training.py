"""Commands that make checkpoints: train, sweep, train-heads, train-predictor, train-encoder, train-decoder, import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..envs import spec_of
from ..experiments.sweep_config import SweepConfig
from ..training.config import (
    DecoderConfig,
    EncoderConfig,
    HeadsConfig,
    ImportConfig,
    PartConfig,
    PredictorConfig,
    TrainConfig,
)
from .data import with_own_files
from .options import command
from .progress import bar, bars, console, counted, show_metrics, show_text_table

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..training.latent_cache import OnProgress

Part = TypeVar("Part", bound=PartConfig)

GOES_ON = "the same command goes on after the last step that was saved"


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    resume = "the same command with --resume goes on after the last step that was saved"
    command(app, "train", TrainConfig, resume)(train)
    command(app, "sweep", SweepConfig, "the same command goes on with the trainings and steps that are left")(sweep)
    command(app, "train-heads", HeadsConfig, GOES_ON)(train_heads)
    command(app, "train-predictor", PredictorConfig, GOES_ON)(train_predictor)
    command(app, "train-encoder", EncoderConfig, GOES_ON)(train_encoder)
    command(app, "train-decoder", DecoderConfig, GOES_ON)(train_decoder)
    command(app, "import", ImportConfig, "nothing was written; run it again")(import_released)


def train(
    config: TrainConfig,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in OUT.")] = False,
) -> None:
    """Train a world model from pixels and actions."""
    from ..training.train import Progress
    from ..training.train import train as run

    config = with_own_files(config)
    with bars() as update:

        def show(progress: Progress) -> None:
            losses = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
            update("training", progress.step, config.steps, losses)

        checkpoint = run(config, resume=resume, on_step=show, on_progress=update)
    show_metrics(checkpoint.training["validation"])
    folder = Path(config.out) / "checkpoint"
    trial = f"; try `lwm-agent eval --env {config.env} --checkpoint {folder}`" if spec_of(config.env) else ""
    console.print(f"wrote {folder}{trial}")


def sweep(config: SweepConfig) -> None:
    """Train with all combinations of some settings, such as seeds. Interrupted? The same command resumes."""
    from ..experiments.sweep import run_sweep
    from ..experiments.sweep_table import all_tables

    config = with_own_files(config)
    with bar("sweep", "trainings") as update:
        rows = run_sweep(config, update)
    for table in all_tables(rows):
        show_text_table(table)
    console.print(f"wrote {Path(config.out, 'sweep.json')} and sweep.md beside it")
    failed = [row for row in rows if row.failure]
    for row in failed:
        console.print(f"failed: {row.folder}: {row.failure}")
    if failed:
        console.print(f"{counted(len(failed), 'training')} failed: the same command tries again")
        raise typer.Exit(1)


def train_heads(config: HeadsConfig) -> None:
    """Train an actor, a temporal distance and, if asked for, a contrast on a world model's latents."""
    from ..training.heads import train_heads as run

    show_metrics(_trained(config, run).training["heads"]["validation"])
    folder = config.out or config.checkpoint
    console.print(f"wrote the heads into {folder}; planners now start from the actor's proposal")


def train_predictor(config: PredictorConfig) -> None:
    """Train the predictor on, its encoder frozen, or a new one (--set model.predictor=mlp)."""
    from ..training.predictor import train_predictor as run

    show_metrics(_trained(config, run).training["predictor"]["validation"])
    console.print(f"wrote {config.out or config.checkpoint}")


def train_encoder(config: EncoderConfig) -> None:
    """Train the encoder to see past colours, light or the camera; all else stays as it is."""
    from ..training.encoder import train_encoder as run

    show_metrics(_trained(config, run).training["encoder"]["validation"])
    console.print(f"wrote {config.out or config.checkpoint}")


def train_decoder(config: DecoderConfig) -> None:
    """Train a decoder: pictures of what the model imagines."""
    from ..training.decoder import train_decoder as run

    decoder = _trained(config, run).decoder
    assert decoder is not None
    show_metrics(decoder.record["validation"])
    console.print(f"wrote the decoder into {config.out or config.checkpoint}")


def _trained(config: Part, run: Callable[[Part, OnProgress], Checkpoint]) -> Checkpoint:
    """The checkpoint whose part `run` has trained, with progress bars."""
    config = with_own_files(config)
    with bars() as update:
        return run(config, update)


def import_released(config: ImportConfig) -> None:
    """Make a checkpoint of released LeWorldModel weights (config.json and weights.pt)."""
    from ..training.released import import_released as run

    checkpoint = run(config)
    model = checkpoint.model
    console.print(
        f"wrote {config.out}: {sum(weight.numel() for weight in model.parameters()) / 1e6:.2f} M parameters, "
        f"{model.image_size} px, {model.frameskip} environment steps a block"
    )
