"""Processes that die, and disks that fill up, in the middle of a write."""

from __future__ import annotations

import os
import resource
import signal
import warnings
from collections.abc import Callable
from itertools import count
from typing import Any

CHANGES = ("write", "open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate", "chmod")
"""Functions of `os` that change the disk."""


def in_a_child(action: Callable[[], None]) -> int:
    """Exit status of a forked process that does `action`: negative if a signal ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it computes in one thread only
        process = os.fork()
    if process == 0:
        status = 1
        try:
            signal.alarm(60)
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die_at(place: int) -> None:
    """Ends this process without any clean-up at its `place`-th call that changes the disk; a write is done by half."""
    calls = count()

    def deadly(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == place:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(9)
            return real(*args, **kwargs)

        return call

    for name in CHANGES:
        setattr(os, name, deadly(name))


def fail_at(place: int, number: int) -> None:
    """From now on, the `place`-th call that needs room on the disk fails with the error `number`, and all after it."""
    calls = count()

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) >= place:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "replace", "rename", "mkdir", "ftruncate"):
        setattr(os, name, failing(getattr(os, name)))


def limit_files(size: int, deadly: bool) -> None:
    """No file of this process can grow beyond `size` bytes, in whatever language it is written.

    The write that would exceed them ends the process if `deadly`, and is an error if not.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
