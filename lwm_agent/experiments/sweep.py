"""`lwm-agent sweep`: several trainings, each in a folder of its own, and the tables of their outcomes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..checkpoint_config import read_config
from ..compute.device import any_gpu, count_devices
from ..eval.comparison_table import markdown_of
from ..eval.provenance import command_line, machine
from ..files import write_text
from ..imports import import_named
from ..models import find_model
from ..training.config import TrainConfig
from ..training.train import train
from .engines import DONE, Outcome, attempt, run_jobs
from .sweep_config import MODEL_GROUP, SweepConfig
from .sweep_table import Trained, all_tables, described

FORMAT = "lwm-agent sweep 1"
Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Training:
    """A training of a sweep, before it.

    Attributes:
        settings: those that differ, by ``GROUP.NAME``.
        config: all of them.
        modules: modules of the user's, which register the model and the environment in the process that trains.
    """

    settings: Mapping[str, Any]
    config: TrainConfig
    modules: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its settings in words."""
        return described(self.settings)

    @property
    def result(self) -> Path:
        """File that exists when it is done."""
        return Path(self.config.out) / "checkpoint" / "config.json"


def run_sweep(config: SweepConfig, progress: Progress = lambda *_: None) -> list[Trained]:
    """Trains all combinations of settings, and writes ``sweep.json`` and ``sweep.md`` into the folder of the sweep.

    The same settings go on where they stopped: a training that is finished is left as it is, and one that was
    interrupted continues after its last saved step. One that fails does not stop the others.

    Args:
        config: settings.
        progress: called with the number of trainings that are over, that of all, and the last one's settings.

    Raises:
        UserError: settings do not fit together, or Ray cannot be used.
    """
    trainings, done = make_trainings(config), 0
    outcomes: dict[str, Outcome] = {}
    parallel = parallel_trainings(config, len(trainings))
    with closing(
        run_jobs(trainings, train_one, config.engine, parallel, config.address, any_gpu(config.device))
    ) as results:
        for training, outcome in results:
            outcomes[training.name] = outcome
            done += 1
            progress(done, len(trainings), training.name)
    rows = [_trained(training, outcomes[training.name]) for training in trainings]
    _write(config, rows)
    return rows


def make_trainings(config: SweepConfig) -> list[Training]:
    """The trainings, in the order of the command: the last setting changes first."""
    shared = {item.name: getattr(config, item.name) for item in fields(TrainConfig)}
    named = (find_model(config.model).model.__module__, config.env.rpartition(":")[0])
    modules = tuple(module for module in named if module.partition(".")[0] not in ("", "lwm_agent"))
    trainings = []
    for values in product(*config.grid.values()):
        settings = dict(zip(config.grid, values, strict=True))
        own: dict[str, Any] = {"out": str(Path(config.out, quote(described(settings), safe=",.=+-")))}
        model_settings = dict(config.model_settings)
        for name, value in settings.items():
            group, _, setting = name.partition(".")
            (model_settings if group == MODEL_GROUP else own)[setting] = value
        own["model_settings"] = model_settings
        trainings.append(Training(settings, TrainConfig(**{**shared, **own}), modules))
    return trainings


def parallel_trainings(config: SweepConfig, most: int) -> int:
    """Trainings at a time: on a CPU one, which uses all cores, and on GPUs one each."""
    if config.jobs is not None:
        return min(config.jobs, most)
    return most if config.address is not None else min(count_devices(config.device), most)


def train_one(training: Training) -> Outcome:
    """Trains, or goes on with a training."""
    return attempt(partial(_train, training), Path(training.config.out))


def _train(training: Training) -> Outcome:
    for module in training.modules:
        import_named(module, "sweep")
    train(training.config, resume=True)
    return Outcome()


def _trained(training: Training, outcome: Outcome) -> Trained:
    """The training with what it has left in its checkpoint."""
    folder = Path(training.config.out).name
    if outcome.status != DONE:
        return Trained(training.settings, folder, outcome.message)
    record = read_config(training.result.parent)["training"]
    return Trained(
        training.settings,
        folder,
        steps=record["steps"],
        seconds=record["seconds"],
        validation=record["validation"],
    )


def _write(config: SweepConfig, rows: Sequence[Trained]) -> None:
    """Writes the tables as JSON and as Markdown."""
    info = {"command": command_line(), "engine": config.engine, "data": list(config.data), **machine()}
    contents = {"format": FORMAT, "info": info, "trainings": [asdict(row) for row in rows]}
    write_text(Path(config.out, "sweep.json"), json.dumps(contents, indent=1) + "\n")
    tables = [markdown_of(table) for table in all_tables(rows)]
    write_text(Path(config.out, "sweep.md"), "\n\n".join(["# Sweep", *tables]) + "\n")
