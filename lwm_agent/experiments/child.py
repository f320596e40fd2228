"""Processes that work for this one, each with its share of the cores, and of several GPUs with one of its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from ..collect.workers import child_threads, start_worker
from ..compute.device import one_gpu
from ..errors import MachineError

Item = TypeVar("Item")
Work = Callable[[Sequence[Item], Callable[[Any], None]], None]
"""Does items and calls the function with each result; processes find it by import."""


class Child:
    """A spawned process and the connection to it; if it dies, it takes no other with it.

    Args:
        work: what it does, a function of its end of the connection and of `arguments` that it finds by import.
        number: number among its siblings, which decides about its GPU.
        siblings: how many they are together: each gets its share of the threads.
        gpu: whether it computes on any GPU.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, number: int, siblings: int, gpu: bool) -> None:
        context = get_context("spawn")
        self.number = number
        self.connection, other = context.Pipe()
        threads = max(1, torch.get_num_threads() // siblings)
        self._process = context.Process(target=_begin, args=(work, other, threads, arguments), daemon=True)
        with child_threads(threads), one_gpu(number) if gpu else nullcontext():
            self._process.start()
        other.close()  # the process alone has its end: where it dies, the connection ends

    def receive(self) -> Any:
        """The next message.

        Raises:
            MachineError: the process has ended.
        """
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            raise MachineError(f"its process ended with exit code {code}: is there enough memory?") from None

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.is_alive()

    def stop(self) -> None:
        """Ends the process; a training saves its state first."""
        self._process.terminate()
        self._process.join()


@dataclass(frozen=True)
class _End:
    """Last message of a share: its error, if there was one, and the text of its traceback."""

    error: Exception | None = None
    text: str = ""


class ChildTraceback(Exception):  # noqa: N818  the cause of an error, not one
    """Traceback of an error in another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def share_out(work: Work[Item], items: Sequence[Item], workers: int, gpu: bool) -> Generator[Any, None, None]:
    """Results of all `items`, in the order in which they come; each of the processes does every `workers`-th item.

    An error of one ends all, and is raised here. Close the generator to stop them.
    """
    children = [
        Child(_do, work, items[number::workers], number=number, siblings=workers, gpu=gpu) for number in range(workers)
    ]
    busy = list(children)
    try:
        while busy:
            ready = wait([child.connection for child in busy])
            for child in [child for child in busy if child.connection in ready]:
                message = child.receive()
                if not isinstance(message, _End):
                    yield message
                    continue
                busy.remove(child)
                if message.error is not None:
                    raise message.error from ChildTraceback(message.text)
    finally:
        for child in children:
            child.stop()


def _begin(work: Callable[..., None], connection: Connection, threads: int, arguments: Sequence[Any]) -> None:
    start_worker()
    torch.set_num_threads(threads)
    with suppress(KeyboardInterrupt):  # of a training that was asked to end, and has saved its state
        work(connection, *arguments)


def _do(connection: Connection, work: Work[Item], items: Sequence[Item]) -> None:
    try:
        work(items, connection.send)
    except Exception as error:
        connection.send(_End(error, traceback.format_exc()))
    else:
        connection.send(_End())
