"""Outcomes of the trainings of a sweep, as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..eval.comparison_table import TextTable

SEED = "train.seed"


@dataclass(frozen=True)
class Trained:
    """A training of a sweep, after it.

    Attributes:
        settings: those that differ, by ``GROUP.NAME``.
        folder: its folder.
        failure: reason why it failed; empty where it did not.
        steps: optimisation steps.
        seconds: time that it took.
        validation: metrics on held-out episodes; without any where it failed.
    """

    settings: Mapping[str, Any]
    folder: str
    failure: str = ""
    steps: int = 0
    seconds: float = 0.0
    validation: Mapping[str, float] | None = None

    @property
    def loss(self) -> float | None:
        """Validation loss, None where it failed."""
        return None if self.validation is None else self.validation["loss"]


def described(settings: Mapping[str, Any]) -> str:
    """Settings in words, such as ``seed=0,model.width=96``."""
    words = {name.removeprefix("train."): value for name, value in settings.items()}
    return ",".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in words.items())


def all_tables(rows: Sequence[Trained]) -> list[TextTable]:
    """The table of all trainings, and where seeds differ, that of the means over them."""
    return [trainings_table(rows), *([seeds_table(rows)] if SEED in rows[0].settings else [])]


def trainings_table(rows: Sequence[Trained]) -> TextTable:
    """A row for each training."""
    names = list(rows[0].settings)
    return TextTable(
        "Trainings, and their loss on held-out episodes",
        (*(name.removeprefix("train.") for name in names), "folder", "validation loss", "steps", "minutes"),
        tuple((*(str(row.settings[name]) for name in names), row.folder, *_numbers(row)) for row in rows),
        words=len(names) + 1,
    )


def seeds_table(rows: Sequence[Trained]) -> TextTable:
    """A row for each combination of the other settings: mean and standard deviation over the seeds that are done."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        others = {name: value for name, value in row.settings.items() if name != SEED}
        losses = groups.setdefault(described(others) or "all", [])
        losses += [] if row.loss is None else [row.loss]
    lines = []
    for name, losses in groups.items():
        mean = f"{np.mean(losses):.4f}" if losses else "-"
        deviation = f"{np.std(losses, ddof=1):.4f}" if len(losses) > 1 else "-"
        lines.append((name, mean, deviation, str(len(losses))))
    return TextTable("Over seeds", ("settings", "mean loss", "deviation", "seeds"), tuple(lines), words=1)


def _numbers(row: Trained) -> tuple[str, str, str]:
    if row.loss is None:
        return "failed", "-", "-"
    return f"{row.loss:.4f}", str(row.steps), f"{row.seconds / 60:.1f}"
