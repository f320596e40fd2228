"""Logs of training metrics: metrics.jsonl always, TensorBoard where it is installed, Weights & Biases on demand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_text, write_text
from ..imports import pip_install

METRICS = "metrics.jsonl"


class MetricLog:
    """Writes scalars under ``folder``; a resumed run drops the lines that it is about to write again.

    Args:
        folder: the run's folder.
        settings: configuration of the run, for W&B.
        start: steps already done.
        track: log to W&B as well.
        enabled: False on all processes but the first.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], start: int, *, track: bool, enabled: bool) -> None:
        self._enabled = enabled
        if not enabled:
            return
        path = folder / METRICS
        lines = read_text(path).splitlines(keepends=True) if start and path.exists() else []
        write_text(path, "".join(line for line in lines if _step_of(line) <= start))
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder, start)
        self._run = _wandb_run(folder, settings) if track else None

    def write(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Logs `values` after `step` steps as ``group/name``."""
        if not self._enabled:
            return
        named = {f"{group}/{name}": value for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **named}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in named.items():
                self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(named, step=step)

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            self._file.close()
            if self._board is not None:
                self._board.close()
            if self._run is not None:
                self._run.finish()


def _step_of(line: str) -> float:
    """Step of a line of the log; infinity for one that a crash has torn: its step is done again anyway."""
    try:
        step = json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if isinstance(step, int) else math.inf


def _tensorboard(folder: Path, start: int) -> Any:
    """A writer of event files that follow on step `start`; None where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)


def _wandb_run(folder: Path, settings: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"--track needs Weights & Biases: {pip_install('track')}") from error
    return wandb.init(project="lwm-agent", dir=str(folder), config=dict(settings), resume="allow")
