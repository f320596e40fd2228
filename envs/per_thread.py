"""Objects that belong to one thread, such as simulators and OpenGL contexts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Generic, TypeVar

T = TypeVar("T")


class _Results(threading.local, Generic[T]):
    """Results by arguments; every thread sees its own, which are freed when the thread ends."""

    def __init__(self) -> None:
        self.by_arguments: dict[tuple[Hashable, ...], T] = {}


def one_per_thread(make: Callable[..., T]) -> Callable[..., T]:
    """A function that calls `make` once for each thread and each choice of positional arguments.

    Two threads thereby never change one simulator at the same time, and an environment made in one thread can be used
    in another.
    """
    results: _Results[T] = _Results()

    @wraps(make)
    def cached(*arguments: Hashable) -> T:
        if arguments not in results.by_arguments:
            results.by_arguments[arguments] = make(*arguments)
        return results.by_arguments[arguments]

    return cached
