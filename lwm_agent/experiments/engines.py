"""Engines that do jobs, such as the cells of a comparison: in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ..compute.device import resolve_device
from ..errors import MachineError, UserError
from ..files import write_text
from ..imports import pip_install
from .child import Child

DONE, FAILED = "done", "failed"
KNOCK_SECONDS = 5.0
MOST_JOBS = 8


class ParallelSettings(Protocol):
    """Settings of a command that does several jobs."""

    @property
    def jobs(self) -> int | None:
        """Jobs at a time, None for what suits the machine."""
        ...

    @property
    def device(self) -> str:
        """Device of each."""
        ...

    @property
    def address(self) -> str | None:
        """Address of a Ray cluster."""
        ...


class Job(Protocol):
    """A piece of work that does not depend on others."""

    @property
    def result(self) -> Path:
        """File that exists when it is done."""
        ...


JobT = TypeVar("JobT", bound=Job)
Results = Generator[tuple[JobT, "Outcome"], None, None]
"""Jobs and their outcomes, each as soon as it is over; closing it stops what is running."""
Play = Callable[[JobT], "Outcome"]
"""Does a job; a function that processes can import."""


@dataclass(frozen=True)
class Outcome:
    """End of a job.

    Attributes:
        status: `DONE`, `FAILED`, or a word of those whose job it is.
        message: reason why it was not done.
    """

    status: str = DONE
    message: str = ""


def attempt(work: Callable[[], Outcome], folder: Path) -> Outcome:
    """The outcome of `work`; an error is one too, that of a bug with the traceback in ``error.txt`` in `folder`."""
    try:
        return work()
    except UserError as error:
        return Outcome(FAILED, str(error))
    except Exception as error:
        path = folder / "error.txt"
        write_text(path, traceback.format_exc())
        return Outcome(FAILED, f"{type(error).__name__}: {error} (see {path})")


def parallel_jobs(settings: ParallelSettings, most: int, *, timed: bool) -> int:
    """Jobs to do at a time, of `most`; one where they are timed, so that none takes time from another."""
    if settings.jobs is not None:
        return settings.jobs
    if timed or resolve_device(settings.device).type != "cpu":
        return 1
    if settings.address is not None:
        return max(1, most)  # the cluster knows its size
    return max(1, min(MOST_JOBS, os.cpu_count() or 1, most))


def run_jobs(
    jobs: Sequence[JobT], play: Play[JobT], engine: str, parallel: int, address: str | None = None, gpu: bool = False
) -> Results[JobT]:
    """Does `jobs`, as many as `parallel` at a time.

    Args:
        jobs: the jobs.
        play: does one of them.
        engine: "local" or "ray".
        parallel: jobs at a time.
        address: address of a Ray cluster; None starts one on this machine.
        gpu: whether they compute on any GPU: each process then has one of its own, as far as there are enough.

    Raises:
        UserError: Ray is not installed, or its cluster cannot be reached.
    """
    if engine == "ray":
        return _run_on_ray(jobs, play, parallel, address, gpu)
    if parallel == 1:
        return ((job, play(job)) for job in jobs)
    return _run_in_processes(jobs, play, parallel, gpu)


def _run_in_processes(jobs: Sequence[JobT], play: Play[JobT], parallel: int, gpu: bool) -> Results[JobT]:
    """Spawned processes, of which each takes the next job when its last one is over."""
    waiting = deque(jobs)
    free = list(range(parallel))  # numbers that no process has
    busy: list[tuple[Child, JobT]] = []
    idle: list[Child] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < parallel:
                child = idle.pop() if idle else Child(_work, play, number=free.pop(), siblings=parallel, gpu=gpu)
                busy.append((child, waiting.popleft()))
                child.connection.send(busy[-1][1])
            ready = wait([child.connection for child, _ in busy])
            for child, job in [pair for pair in busy if pair[0].connection in ready]:
                outcome = _received(child)
                busy.remove((child, job))
                if child.alive:
                    idle.append(child)
                else:
                    free.append(child.number)
                yield job, outcome
    finally:
        for child in (*idle, *(child for child, _ in busy)):
            child.stop()


def _received(child: Child) -> Outcome:
    """The outcome of the job that was sent last."""
    try:
        outcome: Outcome = child.receive()
    except MachineError as error:
        return Outcome(FAILED, str(error))
    return outcome


def _work(connection: Connection, play: Play[Any]) -> None:
    while True:
        connection.send(play(connection.recv()))


def _run_on_ray(jobs: Sequence[JobT], play: Play[JobT], parallel: int, address: str | None, gpu: bool) -> Results[JobT]:
    """Tasks of a Ray cluster, whose machines share the output folder and have this version of the package."""
    threads = max(1, torch.get_num_threads() // parallel)
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
    task = ray.remote(num_cpus=threads, num_gpus=int(gpu), max_retries=0)(_play_remotely)
    waiting = deque(jobs)
    running: dict[Any, JobT] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting.popleft()
                running[task.remote(job, play, threads, sys.argv, os.getcwd())] = job
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


def _play_remotely(job: Job, play: Play[Any], threads: int, argv: list[str], folder: str) -> Outcome:
    sys.argv = argv  # results name the command that the user gave
    os.chdir(folder)  # paths are relative to it, and modules of the user's may be there
    sys.path.append(folder)
    torch.set_num_threads(threads)
    return play(job)


def _fetch(get: Callable[[], Any], job: Job) -> Outcome:
    """The outcome of a task; a task or machine that died is one too."""
    try:
        outcome: Outcome = get()
    except Exception as error:  # of Ray: it has many kinds, all of which end this job alone
        return Outcome(FAILED, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    if outcome.status == DONE and not job.result.exists():
        return Outcome(FAILED, f"{job.result} was written elsewhere: name a folder with --out that all machines share")
    return outcome
