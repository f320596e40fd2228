"""Settings of sweeps: trainings that differ in some settings. Importing this module does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any

from ..errors import UserError
from ..training.config import TrainConfig
from ..validation import Choices, Count, Option, parse_value
from .config import ENGINES, check_engine

SHARED = ("data", "out", "env", "model", "preset", "model_settings", "init", "device", "num_devices", "track")
"""Settings of `TrainConfig` that all trainings of a sweep have in common."""

OWN_GROUP, MODEL_GROUP = "train", "model"


@dataclass(frozen=True, kw_only=True)
class SweepConfig(TrainConfig):
    """Trainings that differ in some settings; all other options are those of `train`.

    Attributes:
        each: settings that differ, with their values, such as train.seed=0,1,2 or model.width=96,192; every combination
            is trained.
        out: folder of the sweep: a folder for each training, and the tables of all.
        engine: processes of this machine (local), or a Ray cluster (ray, needs the extra of that name).
        jobs: trainings at a time.
        address: address of a Ray cluster; by default a new one on this machine.
    """

    each: tuple[str, ...]
    engine: Annotated[str, Choices(ENGINES)] = "local"
    jobs: Annotated[Count | None, Option(default="one, or one a GPU; with --address, all")] = None
    address: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.address)
        if self.num_devices > 1:
            raise UserError(f"num_devices={self.num_devices}: each training of a sweep has one device; choose --jobs")
        names = list(self.grid)
        for name in names:
            self._check_name(name)

    @property
    def grid(self) -> dict[str, list[Any]]:
        """Values of each setting that differs, in the order of the command.

        Raises:
            UserError: nothing differs, an assignment is not understood, or a setting or a value occurs twice.
        """
        return _parse(self.each)

    def _check_name(self, name: str) -> None:
        """Refuses a setting that there is not, that is the same for all, or that is named beside."""
        group, _, setting = name.partition(".")
        if group == MODEL_GROUP:
            if setting in self.model_settings:
                raise UserError(f"--each {name} and --set {name} name the same: leave one out")
            return
        choices = sorted({item.name for item in fields(TrainConfig)} - {*SHARED})
        if group != OWN_GROUP or setting not in choices:
            listed = ", ".join(f"{OWN_GROUP}.{choice}" for choice in choices)
            raise UserError(f"--each {name} cannot differ: choose of {listed}, or {MODEL_GROUP}.NAME")


def _parse(assignments: Iterable[str]) -> dict[str, list[Any]]:
    """Assignments such as ``train.seed=0,1,2`` as ``{"train.seed": [0, 1, 2]}``."""
    grid: dict[str, list[Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        group, dot, setting = name.partition(".")
        if not (equals and dot and group and setting):
            raise UserError(f"--each {assignment!r} is not understood: write GROUP.NAME=VALUE,VALUE")
        values = _values(f"--each {name}", text)
        if name in grid or any(values.count(value) > 1 for value in values):
            raise UserError(f"--each {assignment!r} names {'a setting' if name in grid else 'a value'} twice")
        grid[name] = values
    if not grid:
        raise UserError("--each names no setting that differs: write --each train.seed=0,1,2, or use `lwm-agent train`")
    return grid


def _values(name: str, text: str) -> list[Any]:
    """The values between commas; those within brackets or quotation marks are parts of one value."""
    try:
        values: list[Any] = json.loads(f"[{text}]")
    except (ValueError, RecursionError):
        return [parse_value(name, part) for part in text.split(",")]
    return values or [parse_value(name, text)]
