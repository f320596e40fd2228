"""Presentation of errors and interruptions: a user's mistake is one line, a bug shows its traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.text import Text

from ..errors import UserError
from .progress import error_console

TRACEBACK_VARIABLE = "LWM_AGENT_TRACEBACK"
REPORT = "this is a bug in lwm-agent: please report it, with the lines above and what `lwm-agent doctor` prints"

ADVICE = {
    errno.ENOENT: "check the path",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of the path is a file: check it",
    errno.EEXIST: "choose another name",
    errno.ENOTEMPTY: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead to each other: check them",
    errno.ENOSPC: "free some space, then run it again",
    errno.EDQUOT: "free some space, then run it again",
    errno.EFBIG: "choose another place",
    errno.EIO: "the disk cannot be read or written: check it",
    errno.EAGAIN: "another process holds it: wait until it is done",
    errno.EBUSY: "another process holds it: wait until it is done",
    errno.ETXTBSY: "another process holds it: wait until it is done",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has too many open files",
    errno.ENODEV: "check the path",
    errno.ESTALE: "the network disk lost it: run it again",
}
"""Advice for errors of the operating system that no bug of this package causes."""

MACHINE_WIDE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors that the machine is to blame for even where no file is named."""

MOMENT = 0.01
"""Seconds until an interruption that was lost comes again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an interruption: trainings save their state and files are closed, as after Ctrl-C."""


def handle_signals() -> None:
    """Makes SIGTERM raise `Terminated` in the main thread, and no interruption get lost; no change in another thread.

    Python ignores what a destructor raises, an interruption too: it comes again a moment later, until it is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    show_ignored = sys.unraisablehook

    def interrupt_again(ignored: sys.UnraisableHookArgs) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            show_ignored(ignored)
            return
        number = signal.SIGTERM if issubclass(ignored.exc_type, Terminated) else signal.SIGINT
        again = threading.Timer(MOMENT, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        again.start()

    sys.unraisablehook = interrupt_again


@contextmanager
def interruptible(resume: str) -> Iterator[None]:
    """Ends the command with advice after Ctrl-C (exit code 130) or SIGTERM (143) within the block."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        terminated = isinstance(interruption, Terminated)
        if _traceback_requested():
            error_console().print(traceback.format_exc(), highlight=False, markup=False, soft_wrap=True)
        word = "terminated" if terminated else "interrupted"
        error_console().print(f"{word}: {resume}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(128 + (signal.SIGTERM if terminated else signal.SIGINT)) from None


def show_error(error: Exception) -> int:
    """Prints what went wrong; returns the exit code: 2 for what a user can mend, 1 for a bug."""
    message = error_message(error)
    console = error_console()
    if message is None or _traceback_requested():
        lines = "".join(traceback.format_exception(error))
        console.print(lines.rstrip(), highlight=False, markup=False, soft_wrap=True)
    name = type(error).__name__
    line = Text.assemble(("error", "bold red"), f" {f'{name}: {REPORT}' if message is None else message}")
    console.print(line, highlight=False, soft_wrap=True)
    return 1 if message is None else 2


def error_message(error: Exception) -> str | None:
    """The line that tells a user what to mend; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in ADVICE:
        if error.filename is not None:
            return f"{os.fsdecode(error.filename)}: {error.strerror}: {ADVICE[error.errno]}"
        if error.errno in MACHINE_WIDE:
            return f"{error.strerror}: {ADVICE[error.errno]}"
    if isinstance(error, MemoryError):
        return "there is not enough memory: close other programs, or choose smaller batches"
    return None


def request_traceback() -> None:
    """Makes every error show its traceback, in worker processes too."""
    os.environ[TRACEBACK_VARIABLE] = "1"


def _traceback_requested() -> bool:
    return os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0")
