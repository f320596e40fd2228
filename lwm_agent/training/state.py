"""What an interrupted training needs to go on exactly: weights, optimiser moments and the step, without pickle."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import UserError
from ..files import replacing

STATE = "training.safetensors"
FREE = ("out", "device", "track", "save_every", "validate_every", "log_every")
RECORDED = ("steps", "data")  # to train longer or to end sooner, or where a file has moved
KEPT = ("normalizer",)  # the units that the weights have learned in


class TrainingState:
    """Saves and restores a training in ``folder``.

    Args:
        folder: the run's folder.
        model: its parameters and buffers are saved as they are, in full precision.
        optimizer: AdamW over the model's parameters.
        settings: compared when a training is resumed, so that it goes on with what it was begun with.
        began: when the work on it began, as ``time.perf_counter`` told it; None is now.
        free: settings that a resumed training may change: they do not change what is computed.
        recorded: settings that it may change too, but not without a record.

    Attributes:
        settings: those of this training, but for those of the begun one that are kept whatever these are.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        settings: dict[str, Any],
        began: float | None = None,
        free: Sequence[str] = FREE,
        recorded: Sequence[str] = RECORDED,
    ) -> None:
        self._path, self._model, self._optimizer = folder / STATE, model, optimizer
        self._free, self._recorded = free, recorded
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.changes: list[str] = []  # what resumed trainings changed, in words, for the model card
        self._began, self._spent_before = time.perf_counter() if began is None else began, 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this training so far, before interruptions too."""
        return self._spent_before + time.perf_counter() - self._began

    def begin(self) -> int:
        """Starts a new run at step 0; an error if one is there."""
        if self._path.exists():
            raise UserError(
                f"{self._path.parent} holds a training already: resume it (--resume) or choose another --out"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return 0

    def save(self, step: int) -> None:
        """Writes the state after `step` steps, atomically."""
        tensors = {f"model/{name}": tensor for name, tensor in self._model.state_dict().items()}
        for name, parameter in self._model.named_parameters():
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer/{name}/{key}"] = value
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        facts = {"step": step, "settings": self.settings, "changes": self.changes, "seconds": self.seconds}
        with replacing(self._path) as partial:
            save_file(tensors, partial, {name: json.dumps(value) for name, value in facts.items()})

    def discard(self) -> None:
        """Removes what was saved, and the folder if nothing else is in it."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._path.parent.rmdir()

    def load(self) -> int:
        """Restores the last saved state and returns its step; 0 where nothing was saved yet."""
        if not self._path.exists():
            return self.begin()
        with safe_open(self._path, framework="pt") as file:
            facts = {name: json.loads(value) for name, value in file.metadata().items()}
            step: int = facts["step"]
            self._spent_before = facts.get("seconds", 0.0)
            saved = facts["settings"]
            self.settings |= {name: saved[name] for name in KEPT if name in saved}
            self.changes = facts.get("changes", []) + self._compare(saved, step)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        prefix = "model/"
        self._model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for place, (name, _) in enumerate(self._model.named_parameters()):
            start = f"optimizer/{name}/"
            moments[place] = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        # Which also brings them to the device of the weights.
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        return step

    def _compare(self, saved: dict[str, Any], step: int) -> list[str]:
        """What differs from the saved settings, in words; an error if it may not."""
        # What the version that began the training did not save is taken to be the same.
        known = {name: value for name, value in self.settings.items() if name not in self._free and name in saved}
        changed = {
            name: f"{name} was {saved[name]!r} and is {value!r}"
            for name, value in known.items()
            if saved[name] != value
        }
        refused = [text for name, text in changed.items() if name not in self._recorded]
        if refused:
            raise UserError(
                f"cannot resume {self._path.parent} with other settings: {'; '.join(refused)}. "
                f"Use the same ones, remove {self._path}, or choose another --out"
            )
        return [f"from step {step}, {text}" for text in changed.values()]
