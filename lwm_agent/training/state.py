"""State of an interrupted training, from which it continues exactly: weights, optimiser moments and step; no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import FileError, UserError
from ..files import advice, check_regular_file, check_writable, replacing
from ..validation import has_type
from ..weights import digest_of

STATE = "training.safetensors"
MAY_CHANGE = (
    *("out", "device", "track", "save_every", "validate_every", "log_every"),
    *("keep_state", "latent_cache"),
)
"""Settings that a resumed training may change: they do not change what is computed."""

MAY_CHANGE_IF_LOGGED = ("steps", "data")
"""Settings that it may change too, to train longer or on other data; the model card says so."""

RESTORED = ("normalizer",)
"""Settings that stay as they were, whatever the new ones are: the units that the weights have learned in."""

FINGERPRINTS = "fingerprints"
"""Name of the setting that holds `Trajectories.fingerprint` of each file of the setting ``data``."""


class TrainingState:
    """Saves and restores a training in ``folder``.

    Args:
        folder: the run's folder.
        model: its parameters and buffers are saved as they are, in full precision.
        optimizer: AdamW over the model's parameters that require gradients.
        settings: compared with those of the interrupted training.
        started_at: ``time.perf_counter()`` at the start of the work; None is now.
        may_change: settings that a resumed training may change.
        may_change_if_logged: settings that it may change with a line in the model card.

    Attributes:
        settings: those of this training, `RESTORED` ones as in the interrupted training.
        changes: differences from the interrupted training, in words, for the model card.

    Raises:
        UserError: `folder` cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        settings: Mapping[str, Any],
        started_at: float | None = None,
        may_change: Sequence[str] = MAY_CHANGE,
        may_change_if_logged: Sequence[str] = MAY_CHANGE_IF_LOGGED,
    ) -> None:
        self._path, self._model, self._optimizer = folder / STATE, model, optimizer
        check_writable(self._path)
        self._may_change, self._may_change_if_logged = may_change, may_change_if_logged
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.changes: list[str] = []
        self._started_at, self._seconds_before = time.perf_counter() if started_at is None else started_at, 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this training so far, before interruptions too."""
        return self._seconds_before + time.perf_counter() - self._started_at

    def begin(self) -> int:
        """Starts a new run at step 0.

        Raises:
            UserError: the folder holds a run, finished or not.
        """
        folder = self._path.parent
        if self._is_there() or (folder / "checkpoint").exists():
            raise UserError(f"{folder} holds a training already: resume it (--resume) or choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        return 0

    def save(self, step: int) -> None:
        """Writes the state after `step` steps, atomically."""
        tensors = {f"model/{name}": tensor for name, tensor in self._model.state_dict().items()}
        for name, parameter in self._model.named_parameters():
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer/{name}/{key}"] = value
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        record = {"step": step, "settings": self.settings, "changes": self.changes, "seconds": self.seconds}
        metadata = {name: json.dumps(value) for name, value in record.items()}
        with replacing(self._path) as partial:
            try:
                save_file(tensors, partial, {**metadata, "sha256": _digest(metadata, tensors)})
            except SafetensorError as error:
                raise FileError(f"{self._path} cannot be written: {advice(error)}") from error

    def finish(self, keep: bool) -> None:
        """Removes the state of a finished training: it is six times as large as the checkpoint. `keep` keeps it."""
        if not keep:
            self.discard()

    def discard(self) -> None:
        """Removes the saved state, and the folder if nothing else is in it."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._path.parent.rmdir()

    def load(self) -> int:
        """Restores the last saved state and returns its step; 0 where nothing was saved yet.

        Raises:
            UserError: the state is damaged, or of a training with other settings or other data; or the training is
                finished and its state was not kept.
        """
        if not self._is_there():
            if (self._path.parent / "checkpoint").exists():
                raise UserError(
                    f"{self._path.parent} holds a finished training whose state was not kept: to train longer, train "
                    "anew with more --steps into another --out, with --set train.keep_state=true if it may become "
                    "longer still"
                )
            return self.begin()
        record, tensors = self._read()
        saved, step = record["settings"], record["step"]
        self.settings |= {name: saved[name] for name in RESTORED if name in saved}
        changes = self._compare(saved, step)
        self._check_tensors(tensors)
        self.changes = [*record.get("changes", []), *changes]
        self._seconds_before = float(record.get("seconds", 0.0))
        self._restore(tensors)
        return step

    def check(self) -> None:
        """Raises, before the work, the errors of `load` about damage, other settings and other data."""
        if self._is_there():
            record, _ = self._read()
            self._compare(record["settings"], record["step"])

    def _is_there(self) -> bool:
        """True if a state was saved; a link that leads nowhere stands for one that was lost."""
        return os.path.lexists(self._path)

    def _check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuses tensors that are not those of model and optimiser, in name, shape and number type, or not finite."""
        expected = {f"model/{name}": (tensor.dtype, tensor.shape) for name, tensor in self._model.state_dict().items()}
        for name, weight in self._model.named_parameters():
            own = {key for key in tensors if key.startswith(f"optimizer/{name}/")}
            if weight.requires_grad and own:  # none of a weight that no gradient has reached yet
                expected[f"optimizer/{name}/step"] = (torch.float32, torch.Size())
                for moment in ("exp_avg", "exp_avg_sq"):
                    expected[f"optimizer/{name}/{moment}"] = (weight.dtype, weight.shape)
        if expected.keys() != tensors.keys():
            name = min(expected.keys() ^ tensors.keys())
            raise self._damaged(f"{name} is {'missing' if name in expected else 'unexpected'}")
        for name, (dtype, shape) in expected.items():
            tensor = tensors[name]
            if (tensor.dtype, tensor.shape) != (dtype, shape):
                raise self._damaged(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {tuple(shape)}")
            if not tensor.isfinite().all():
                raise self._damaged(f"{name} has NaN or infinity")

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts weights and moments into model and optimiser."""
        prefix = "model/"
        self._model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        moments: dict[int, dict[str, Tensor]] = {}
        trained = [name for name, parameter in self._model.named_parameters() if parameter.requires_grad]
        for place, name in enumerate(trained):
            start = f"optimizer/{name}/"
            moments[place] = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        # This also brings them to the device of the weights.
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Record and tensors of the saved state, compared with their hash; earlier versions stored none."""
        check_regular_file(self._path)
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = metadata.pop("sha256", None)
            record = {name: json.loads(value) for name, value in metadata.items()}
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        if digest not in (None, _digest(metadata, tensors)):
            raise self._damaged("its contents do not have the stored SHA-256")
        self._check_record(record)
        saved = record["settings"]
        if isinstance(saved.get("model"), dict):  # of version 0.1, which had one kind of model
            saved |= {"model": "lewm", "model_settings": saved["model"]}
        return record, tensors

    def _check_record(self, record: Mapping[str, Any]) -> None:
        """Refuses a record with an entry that is missing, or of another type."""
        if not isinstance(record.get("settings"), dict) or not has_type(record.get("step"), int):
            raise self._damaged("it has no settings or no step")
        changes, seconds = record.get("changes", []), record.get("seconds", 0.0)
        if record["step"] < 1:
            raise self._damaged(f"its step is {record['step']}")
        if not isinstance(changes, list) or not all(isinstance(text, str) for text in changes):
            raise self._damaged(f"its changes are {changes!r}, not texts")
        if not has_type(seconds, float) or not 0 <= seconds < math.inf:
            raise self._damaged(f"its seconds are {seconds!r}")

    def _damaged(self, reason: object) -> UserError:
        cause = advice(reason) if isinstance(reason, Exception) else reason
        return UserError(
            f"{self._path} is damaged or cut short ({cause}): remove it and train again, or copy it from a backup"
        )

    def _compare(self, saved: dict[str, Any], step: int) -> list[str]:
        """Differences from the saved settings, in words; an error for those that may not change."""
        ours = {name: value for name, value in self.settings.items() if name not in self._may_change}
        same_data = self._check_data(saved)
        differing = {
            name: f"{name} was {saved[name]!r} and is {value!r}"
            for name, value in ours.items()
            # A setting that an earlier version did not save is taken to be the same.
            if name in saved and saved[name] != value and name != FINGERPRINTS and not (name == "data" and same_data)
        }
        refused = [text for name, text in differing.items() if name not in self._may_change_if_logged]
        if refused:
            raise UserError(
                f"cannot resume {self._path.parent} with other settings: {'; '.join(refused)}. "
                f"Use the same ones, remove {self._path}, or choose another --out"
            )
        return [f"from step {step}, {text}" for text in differing.values()]

    def _check_data(self, saved: Mapping[str, Any]) -> bool:
        """True if the data are the same, whatever their paths; an error if a path holds other data than it did."""
        before, now = saved.get(FINGERPRINTS), self.settings.get(FINGERPRINTS)
        if before is None or now is None:
            return False
        files = {os.path.abspath(path): mark for path, mark in zip(saved["data"], before, strict=False)}
        for path, mark in zip(self.settings["data"], now, strict=False):
            if files.get(os.path.abspath(path), mark) != mark and mark not in before:
                raise UserError(
                    f"cannot resume {self._path.parent}: {path} holds other data than when the training began. Restore "
                    f"the file, give the new data a path of their own, or remove {self._path} to train anew"
                )
        return bool(before == now)


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state."""
    texts = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(f"{texts}\n{digest_of(tensors)}".encode()).hexdigest()
