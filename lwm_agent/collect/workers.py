"""Runs a function in several processes: results in order, errors with their traceback, nothing left behind."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import TypeVar

T = TypeVar("T")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TASKS_PER_WORKER = 4  # keeps workers busy while the results before theirs are taken


def ordered_map(function: Callable[[int], T], indices: Iterable[int], workers: int) -> Generator[T, None, None]:
    """``map(function, indices)`` in `workers` processes, or in this one if `workers` is 1.

    Processes are spawned, so `function` must be found by import. Close the generator to stop them; an exception of
    `function` is raised here, and `BrokenProcessPool` where a process dies.
    """
    if workers == 1:
        yield from map(function, indices)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker)
    pending: deque[Future[T]] = deque()
    try:
        for index in indices:
            with child_threads(1):
                pending.append(pool.submit(function, index))
            if len(pending) == TASKS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def child_threads(threads: int) -> Iterator[None]:
    """Processes started inside get so many threads for linear algebra: the workers together fill the cores."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_worker() -> None:
    """Prepares a process that was spawned for work: it ends with its parent, and leaves Ctrl-C to it."""
    # Without it SDL complains in each process; a worker opens no window and needs no such folder.
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then shuts the pool down
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot shut its pool down."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
