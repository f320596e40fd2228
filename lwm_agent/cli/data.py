"""Commands that make data: collect, convert, tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from ..collect.config import CollectConfig
from ..data.config import ConvertConfig
from ..errors import UserError
from ..experiments.config import TasksConfig
from ..training.config import PartConfig, TrainConfig
from .options import command
from .progress import bar, console

if TYPE_CHECKING:
    from ..data.convert import Conversion

TrainingConfig = TypeVar("TrainingConfig", bound=TrainConfig | PartConfig)
"""Settings of a training on files."""


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "collect", CollectConfig, "the same command goes on after the last episode that was saved")(collect)
    command(app, "convert", ConvertConfig, "nothing was converted; run it again")(convert)
    command(app, "tasks", TasksConfig, "nothing was written; run it again")(tasks)


def collect(config: CollectConfig) -> None:
    """Record episodes. Interrupted? The same command resumes."""
    from ..collect.record import collect as run

    with bar("collecting", "episodes") as update:
        run(config, update)
    _show_file(Path(config.out))


def convert(config: ConvertConfig) -> None:
    """Make a data set of one of another format: LeRobot, Zarr, HDF5 of robomimic and Minari, npz, videos."""
    from ..data.convert import convert as run

    with bar("converting", "frames" if Path(config.source).suffix == ".npz" else "episodes") as update:
        conversion = run(config, update)
    _show_conversion(conversion, config.out, config.env)


def with_own_files(config: TrainingConfig) -> TrainingConfig:
    """`config` with files of trajectories as its data: data of other formats are converted first, beside themselves."""
    from ..data.foreign import is_foreign

    files = [_converted(Path(path), config.image_size) if is_foreign(Path(path)) else path for path in config.data]
    return replace(config, data=tuple(files))


def _converted(source: Path, image_size: int) -> str:
    """The file of trajectories that the data `source` are converted to."""
    from ..data.foreign import own_file

    with bar(f"converting {source.name}", "episodes") as update:
        found = own_file(source, image_size, update)
    if found.conversion is None:
        console.print(f"{source} was converted before: {found.path}")
    else:
        _show_conversion(found.conversion, found.path)
    return str(found.path)


def _show_conversion(conversion: Conversion, out: Path, env: str | None = None) -> None:
    """Prints what was converted, what was left out, and advice on training."""
    recordings = conversion.recordings
    if recordings is None:
        _show_file(out, "; train on it with --env cube")
        return
    rate = "" if recordings.fps is None else f" at {recordings.fps:g} Hz"
    console.print(
        f"{recordings.num_episodes} episodes, {conversion.num_frames} frames{rate}, camera {recordings.camera}"
    )
    if conversion.left_out:
        console.print(f"left out: {'; '.join(conversion.left_out)}")
    if recordings.fps is not None:
        frameskip = max(1, round(recordings.fps / 2))
        console.print(f"blocks of half a second, as on Push-T: train with --set model.frameskip={frameskip}")
    _show_file(out, "" if env is None else f"; train on it with --env {env}")


def tasks(config: TasksConfig) -> None:
    """Make evaluation tasks from held-out episodes: pairs of a start and a goal."""
    from ..eval import TaskSet, make_tasks

    if config.out.exists() and not config.overwrite:
        try:
            TaskSet.load(config.out)
        except (UserError, OSError) as error:
            raise UserError(f"--out {config.out} is there and no task file: pass --overwrite to replace it") from error
    with bar("making tasks", "tasks") as update:
        task_set = make_tasks(
            config.env,
            config.offset,
            config.episodes,
            config.seed,
            config.protocol,
            split=config.split,
            progress=update,
        )
    task_set.save(config.out)
    console.print(f"wrote {config.out}")


def _show_file(path: Path, advice: str = "") -> None:
    console.print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB){advice}")
