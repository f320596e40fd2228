"""Latents of all frames of data files from a frozen encoder: computed once, in memory or in files.

A frame of 196 tokens of 384 numbers takes 147 KiB: a million frames do not fit in memory. A cache file has them in half
precision, is read through a memory map, and is continued after an interruption and used again by later trainings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16, free_memory
from ..data.trajectories import Trajectories
from ..errors import DivergedError, FileError
from ..files import check_regular_file, check_writable, file_errors, flush, read_text, resolved, write_text
from ..models import LatentPredictor
from ..weights import digest_of

OnProgress = Callable[[str, int, int, str], None]
"""Called with the name of the work, how much of it is done, the total, and a text to show."""

BYTES = 2  # of a number in half precision

MOST_BYTES = 1 << 28
"""Bytes of the latents that a validation gathers at once, in half precision."""


def affordable(num: int, latents: Tensor, frames: int) -> int:
    """`num` examples of `frames` latents each, or as many as `MOST_BYTES` hold."""
    return min(num, max(64, MOST_BYTES // (frames * latents[0].nbytes)))


@torch.no_grad()
def encode(
    checkpoint: Checkpoint,
    files: Sequence[Trajectories],
    device: torch.device,
    report: OnProgress,
    chunk: int = 512,
    folder: Path | None = None,
    in_memory: bool | None = None,
) -> list[Tensor]:
    """Latents ``(N, *Z)`` of all frames of each file, in half precision on the CPU.

    Args:
        checkpoint: its model encodes.
        files: data.
        device: where the model is.
        report: called after each chunk.
        chunk: frames encoded together.
        folder: where cache files are.
        in_memory: False for cache files; None keeps the latents in memory if they fit in a quarter of it.

    Raises:
        FileError: the disk is full, or the folder cannot be written.
        DivergedError: latents are not finite in half precision.
    """
    shape = checkpoint.model.latent_shape
    size = sum(file.num_frames for file in files) * prod(shape) * BYTES
    if in_memory is None:
        in_memory = size < free_memory(torch.device("cpu")) / 4
    encoder = None if in_memory or folder is None else encoder_hash(checkpoint, device)
    latents, progress = [], _Progress(report, sum(file.num_frames for file in files))
    for file in files:
        chunks = _Encoding(checkpoint, file, device, chunk)
        if encoder is None or folder is None:
            gathered = torch.empty(file.num_frames, *shape, dtype=torch.half, device="cpu")
            for start in range(0, file.num_frames, chunk):
                part = torch.from_numpy(chunks.at(start))
                gathered[start : start + len(part)] = part
                progress.add(len(part))
            latents.append(gathered)
        else:
            cache = LatentCache(folder, encoder, file.fingerprint, (file.num_frames, *shape), chunk)
            latents.append(cache.filled(chunks.at, progress.add))
    return latents


class _Progress:
    """Sum of the frames done, reported."""

    def __init__(self, report: OnProgress, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, frames: int) -> None:
        self._done += frames
        self._report("encoding", self._done, self._total, "")


@dataclass(frozen=True)
class _Encoding:
    """Latents of chunks of one file."""

    checkpoint: Checkpoint
    file: Trajectories
    device: torch.device
    chunk: int

    def at(self, start: int) -> NDArray[np.float16]:
        """Latents ``(n, *Z)`` of the frames from `start` on, at most `chunk`."""
        rows = np.arange(start, min(start + self.chunk, self.file.num_frames))
        pixels = self.checkpoint.normalizer.pixels(self.file.frames(rows), self.device)
        with autocast(self.device, fast_bf16(self.device)):
            latents = self.checkpoint.model.embed(pixels).half().cpu()
        if not latents.isfinite().all():
            raise DivergedError(
                f"the latents of {self.file.path} exceed half precision or are not finite, in frames {rows[0]} to "
                f"{rows[-1]}: train the world model again with a lower learning_rate"
            )
        array: NDArray[np.float16] = latents.numpy()
        return array


def encoder_hash(checkpoint: Checkpoint, device: torch.device) -> str:
    """SHA-256 of all that decides about latents: weights but the predictor's, units of pictures, precision."""
    model = checkpoint.model
    own = model.predictor_settings if isinstance(model, LatentPredictor) else ()
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("predictor.")}
    settings = {name: value for name, value in checkpoint.model_config.items() if name not in own}
    units = (checkpoint.normalizer.pixel_mean, checkpoint.normalizer.pixel_std)
    words = json.dumps([checkpoint.name, settings, units, device.type, fast_bf16(device)], sort_keys=True)
    return hashlib.sha256(f"{words}\n{digest_of(weights)}".encode()).hexdigest()


@dataclass(frozen=True)
class LatentCache:
    """File of the latents of one data file, and beside it a marker: a JSON file with a checksum of each chunk done.

    The marker grows only after a chunk is on the disk. So an interrupted encoding continues after the last chunk that
    is whole, and a chunk that was damaged since is encoded again.

    Attributes:
        folder: where both files are.
        encoder: hash of the encoder.
        data: fingerprint of the data.
        shape: ``(N, *Z)``.
        chunk: frames in a chunk.
    """

    folder: Path
    encoder: str
    data: str
    shape: tuple[int, ...]
    chunk: int

    @property
    def path(self) -> Path:
        """The NumPy file ``(N, *Z)``, float16."""
        return resolved(self.folder) / f"{self.encoder[:16]}-{self.data}.npy"

    @property
    def marker(self) -> Path:
        """The JSON file with the checksums."""
        return self.path.with_suffix(".json")

    def filled(self, encode_from: Callable[[int], NDArray[np.float16]], on_frames: Callable[[int], None]) -> Tensor:
        """Latents ``(N, *Z)``; missing chunks are encoded by `encode_from`, which takes their first frame.

        Raises:
            FileError: the disk is full, the folder cannot be written, or another training is filling the file.
        """
        check_writable(self.path)
        with file_errors(self.path, "written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab"):  # makes an empty file where there is none
                pass
        check_regular_file(self.path)
        with self.path.open("r+b") as file, _locked(file, self.path):
            checks = self._whole_chunks(file)
            first = min(len(checks) * self.chunk, self.shape[0])
            if first:
                on_frames(first)
            if first < self.shape[0]:
                self._check_room(file)
            for start in range(first, self.shape[0], self.chunk):
                latents = encode_from(start)
                checks.append(self._write(file, start, latents))
                self._mark(checks)
                on_frames(len(latents))
        # Copy on write: the tensor counts as writable, and the file stays as it is.
        return torch.from_numpy(np.load(self.path, mmap_mode="c"))

    @property
    def _frame_bytes(self) -> int:
        return BYTES * prod(self.shape[1:])

    def _header(self) -> bytes:
        """Header of a NumPy file of the complete shape."""
        text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {self.shape!r}, }}"
        length = 128 * (1 + (len(text) + 11) // 128)
        return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + f"{text:<{length - 11}}\n".encode()

    def _identity(self) -> dict[str, object]:
        return {"encoder": self.encoder, "data": self.data, "shape": [*self.shape], "chunk": self.chunk}

    def _whole_chunks(self, file: IO[bytes]) -> list[int]:
        """Checksums of the whole chunks from the first on; of none if the files are not those of this cache."""
        try:
            marker = json.loads(read_text(self.marker)) if self.marker.exists() else {}
            checks = marker.pop("checks", [])
        except (FileError, ValueError, AttributeError, TypeError, RecursionError):
            return []
        header = self._header()
        file.seek(0)
        if marker != self._identity() or not isinstance(checks, list) or file.read(len(header)) != header:
            return []
        for number, check in enumerate(checks):
            frames = min(self.chunk, self.shape[0] - number * self.chunk)
            contents = file.read(max(0, frames) * self._frame_bytes)
            if frames <= 0 or len(contents) != frames * self._frame_bytes or zlib.crc32(contents) != check:
                return checks[:number]
        return checks

    def _check_room(self, file: IO[bytes]) -> None:
        """Refuses, before the work, a disk that cannot take the rest of the file."""
        size = file.seek(0, 2)
        missing = len(self._header()) + self.shape[0] * self._frame_bytes - size
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise FileError(
                f"{self.path} needs {missing / 2**30:.2f} GiB more and its disk has {free / 2**30:.2f} GiB left: free "
                "space, or name a folder on another disk (latent_cache)"
            )

    def _write(self, file: IO[bytes], start: int, latents: NDArray[np.float16]) -> int:
        """Writes a chunk to the disk; its checksum."""
        header, contents = self._header(), np.ascontiguousarray(latents, dtype="<f2").tobytes()
        with file_errors(self.path, "written"):
            if start == 0:
                file.seek(0)
                file.write(header)
            file.seek(len(header) + start * self._frame_bytes)
            file.write(contents)
            file.flush()
            flush(self.path)
        return zlib.crc32(contents)

    def _mark(self, checks: Sequence[int]) -> None:
        write_text(self.marker, json.dumps(self._identity() | {"checks": [*checks]}) + "\n")


@contextlib.contextmanager
def _locked(file: IO[bytes], path: Path) -> Iterator[None]:
    """Keeps other processes from filling the same cache, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileError(
            f"another training is filling {path}: wait until it has, or name another folder (latent_cache)"
        ) from error
    except OSError:  # a network file system without locks
        yield
        return
    yield
