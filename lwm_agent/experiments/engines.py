"""Engines that play the cells of a comparison: in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..collect.workers import child_threads, start_worker
from ..errors import BudgetError, UserError
from ..eval.comparison import BELOW_PLAN, FAILED, PLAYED
from ..files import write_text
from ..imports import pip_install
from .comparison_grid import Job
from .evaluate import run_evaluation

KNOCK_SECONDS = 5.0
Results = Generator[tuple[Job, "Outcome"], None, None]
"""Cells and their outcomes, each as soon as it is over; closing it stops what is running."""


@dataclass(frozen=True)
class Outcome:
    """End of a cell.

    Attributes:
        status: `PLAYED`, `BELOW_PLAN` or `FAILED`.
        message: reason why it was not played.
    """

    status: str = PLAYED
    message: str = ""


def play(job: Job) -> Outcome:
    """Plays a cell, or the rest of it; an error is its outcome, with the traceback in ``error.txt`` beside it."""
    try:
        run_evaluation(job.config)
    except BudgetError as error:
        return Outcome(BELOW_PLAN, str(error))
    except UserError as error:
        return Outcome(FAILED, str(error))
    except Exception as error:
        path = job.config.output_dir / "error.txt"
        write_text(path, traceback.format_exc())
        return Outcome(FAILED, f"{type(error).__name__}: {error} (see {path})")
    return Outcome()


def run_jobs(jobs: Sequence[Job], engine: str, parallel: int, address: str | None = None) -> Results:
    """Plays `jobs`, as many as `parallel` at a time.

    Args:
        jobs: the cells.
        engine: "local" or "ray".
        parallel: cells at a time.
        address: address of a Ray cluster; None starts one on this machine.

    Raises:
        UserError: Ray is not installed, or its cluster cannot be reached.
    """
    threads = max(1, torch.get_num_threads() // parallel)
    if engine == "ray":
        return _run_on_ray(jobs, parallel, threads, address)
    if parallel == 1:
        return ((job, play(job)) for job in jobs)
    return _run_in_processes(jobs, parallel, threads)


class _Worker:
    """A process that plays one cell after the other; if it dies, it takes no other with it."""

    def __init__(self, threads: int) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, threads), daemon=True)
        with child_threads(threads):
            self._process.start()
        other.close()  # the process alone has its end: where it dies, the connection ends

    def outcome(self) -> Outcome:
        """The outcome of the cell that was sent last."""
        try:
            outcome: Outcome = self.connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            return Outcome(FAILED, f"its process ended with exit code {code}: is there enough memory?")
        return outcome

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.is_alive()

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self._process.terminate()
        self._process.join()


def _run_in_processes(jobs: Sequence[Job], parallel: int, threads: int) -> Results:
    """Spawned processes, of which each takes the next cell when its last one is over."""
    waiting = deque(jobs)
    busy: list[tuple[_Worker, Job]] = []
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < parallel:
                worker = idle.pop() if idle else _Worker(threads)
                busy.append((worker, waiting.popleft()))
                worker.connection.send(busy[-1][1])
            ready = wait([worker.connection for worker, _ in busy])
            for worker, job in [pair for pair in busy if pair[0].connection in ready]:
                outcome = worker.outcome()
                busy.remove((worker, job))
                idle += [worker] if worker.alive else []
                yield job, outcome
    finally:
        for worker in (*idle, *(worker for worker, _ in busy)):
            worker.stop()


def _work(connection: Connection, threads: int) -> None:
    start_worker()
    torch.set_num_threads(threads)
    while True:
        connection.send(play(connection.recv()))


def _run_on_ray(jobs: Sequence[Job], parallel: int, threads: int, address: str | None) -> Results:
    """Tasks of a Ray cluster, whose machines share the output folder and have this version of the package."""
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray: {pip_install('ray')}") from error
    try:
        if address is None:
            ray.init(num_cpus=parallel * threads, include_dashboard=False, log_to_driver=False)
        else:
            _knock(address)
            ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: Ray cannot be reached there ({error})") from error
    task = ray.remote(num_cpus=threads, max_retries=0)(_play_remotely)
    waiting = deque(jobs)
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting.popleft()
                running[task.remote(job, threads, sys.argv)] = job
            (done,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done)
            yield job, _fetch(partial(ray.get, done), job)
    finally:
        for pending in running:
            ray.cancel(pending, force=True)
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises an OSError if nobody listens at an address HOST:PORT, for which Ray would look for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _play_remotely(job: Job, threads: int, argv: list[str]) -> Outcome:
    sys.argv = argv  # results name the command that the user gave
    torch.set_num_threads(threads)
    return play(job)


def _fetch(get: Callable[[], Any], job: Job) -> Outcome:
    """The outcome of a task; a task or machine that died is one too."""
    try:
        outcome: Outcome = get()
    except Exception as error:  # of Ray: it has many kinds, all of which end this cell alone
        return Outcome(FAILED, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    if outcome.status == PLAYED and not (job.config.output_dir / "results.json").exists():
        return Outcome(FAILED, f"{job.config.output_dir} is another folder there: name one with --out that all share")
    return outcome
