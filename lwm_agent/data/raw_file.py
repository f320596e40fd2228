"""Writes to the disk that fail with an exception of Python, never inside of HDF5."""

from __future__ import annotations

import os
from io import SEEK_CUR, SEEK_END, SEEK_SET
from pathlib import Path
from types import TracebackType

_BINARY = getattr(os, "O_BINARY", 0)  # Windows


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        _write_all(descriptor, memoryview(content))
    finally:
        os.close(descriptor)


class RawFile:
    """Binary file on disk that HDF5 writes to as to a Python object.

    HDF5 crashes when a file cannot be closed because the disk is full. This object never reports an error to it: it
    keeps the first one in `error`, and all bytes from then on in memory, so that HDF5 can close. Look at `error` after
    each large write, and after closing.
    """

    def __init__(self, path: Path) -> None:
        self.error: BaseException | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        self._position = self._size = 0
        self._unwritten: list[tuple[int, bytes]] = []

    def __enter__(self) -> RawFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def check(self) -> None:
        """Raises the first error of writing, if there was one."""
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Sets the position of the next read or write."""
        self._position = offset + {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Position of the next read or write."""
        return self._position

    def write(self, content: bytes) -> int:
        """Writes all of `content`."""
        data = memoryview(content).cast("B")
        if self.error is None:
            try:
                os.lseek(self._descriptor, self._position, SEEK_SET)
                _write_all(self._descriptor, data)
            except BaseException as error:  # an interrupt too: `check` raises it
                self.error = error
        if self.error is not None:
            self._unwritten.append((self._position, bytes(data)))
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def read(self, size: int) -> bytes:
        """The next `size` bytes, with zeros behind the end of the file."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: bytearray) -> int:
        """Fills `buffer`, with zeros behind the end of the file."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, self._position + len(view)
        os.lseek(self._descriptor, start, SEEK_SET)
        done = 0
        while done < len(view) and (piece := os.read(self._descriptor, len(view) - done)):
            view[done : done + len(piece)] = piece
            done += len(piece)
        view[done:] = bytes(len(view) - done)
        for first, content in self._unwritten:
            low, high = max(start, first), min(stop, first + len(content))
            if low < high:
                view[low - start : high - start] = content[low - first : high - first]
        self._position = stop
        return len(view)

    def truncate(self, size: int) -> int:
        """Sets the size of the file."""
        self._size = size
        if self.error is None:
            try:
                os.ftruncate(self._descriptor, size)
            except BaseException as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Does nothing: bytes are passed on at once."""


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
