"""Damaged files of every kind that the package reads: each is refused by name, or read as if nothing had happened.

`mutations` has the kinds and the damage. A worker process with limited memory reads the files; one that does not answer
in time is killed and replaced. A sample runs always, all cases with ``-m slow``. For a table of what happens::

    python -c "import test_mutated_files; test_mutated_files.main()"  # in tests/; more arguments: parts of names
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .mutations import FORMS, SECONDS, SUBJECTS, cases

GOOD = ("refused", "same", "other")
WORKER = [sys.executable, str(Path(__file__).with_name("mutations.py"))]


class Worker:
    """A process that reads damaged files; it is replaced when it hangs or dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, case: str) -> dict[str, Any]:
        """The outcome of `case`."""
        started = self._process is not None
        if self._process is None:
            self._process = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS + (0 if started else 60))
        if not ready:
            self._stop()
            return {"outcome": "hang", "text": ""}
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._stop()
            return {"outcome": "crash", "text": f"exit status {code}"}
        return json.loads(answer)  # type: ignore[no-any-return]

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One process for all tests: most of its time is spent on imports."""
    with Worker() as shared:
        yield shared


def failures(worker: Worker, chosen: Iterable[str]) -> list[str]:
    """Failures, a line a case."""
    ends = ((case, worker.run(case)) for case in chosen)
    return [f"{case}: {end['outcome']} {end['text']}" for case, end in ends if end["outcome"] not in GOOD]


def sample(subject: str, number: int) -> list[str]:
    """The same few cases of a kind of file each time, spread over its kinds of damage."""
    own = [case for case in cases() if case.startswith(f"{subject} / ")]
    return own[:: max(1, len(own) // number)][:number]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_sample_of_damaged_files_is_refused_or_read_alike(subject: str, worker: Worker) -> None:
    assert failures(worker, sample(subject, 12)) == []


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_damaged_file_is_refused_or_read_alike(subject: str, worker: Worker) -> None:
    assert failures(worker, (case for case in cases() if case.startswith(f"{subject} / "))) == []


def test_there_are_a_thousand_cases() -> None:
    assert len(set(cases())) == len(cases()) >= 1000
    assert {subject.form for subject in SUBJECTS.values()} <= FORMS.keys()


def main() -> None:
    """Runs the cases whose names contain one of the arguments, or all, and prints what went wrong and how often."""
    parts = sys.argv[1:] or [""]
    counts: dict[str, Counter[str]] = {}
    with Worker() as worker:
        for case in (case for case in cases() if any(part in case for part in parts)):
            end = worker.run(case)
            counts.setdefault(case.split(" / ")[0], Counter())[end["outcome"]] += 1
            if end["outcome"] not in GOOD or os.environ.get("VERBOSE"):
                print(f"{case}: {end['outcome']} {end['text']}", flush=True)  # noqa: T201
    for subject, counter in counts.items():
        print(f"{subject}: {dict(counter)}")  # noqa: T201


if __name__ == "__main__":
    main()
