"""Planning speed of this checkout against another one; prints JSON: python benchmarks/before_after.py OTHER.

Each checkout plans in its own process, with its own checkpoints, in float32 on the CPU. The two take turns, decision by
decision; a ratio is the median over the turns. Other work on the machine disturbs CPU time least. A decision is one
call of `predict` that plans, for episodes with a full history and random pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from lwm_agent import Agent

if TYPE_CHECKING:
    from lwm_agent.agent.state import AgentState

HERE = Path(__file__).resolve().parent.parent
ROOMS = ("envs", "planners", "eval")
DECIDE = "--decide"  # argument of the processes that plan


@dataclass(frozen=True)
class Case:
    """A kind of decision."""

    checkpoint: str
    planner: str
    episodes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.checkpoint}, {self.planner}, {self.episodes} at once, {self.threads} threads"


class Contestant:
    """A process that plans with the package of a checkout.

    Args:
        checkout: root of the project's repository.
        folder: an empty folder for links to the package as it is installed.
    """

    def __init__(self, checkout: Path, folder: Path) -> None:
        package = folder / "lwm_agent"
        package.mkdir(parents=True)
        for path in (*(checkout / "lwm_agent").iterdir(), *(checkout / room for room in ROOMS)):
            (package / path.name).symlink_to(path)
        self._process = subprocess.Popen(
            [sys.executable, __file__, DECIDE],
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def decide(self, case: Case) -> tuple[float, float, list[float]]:
        """Seconds of one decision by the clock and of the CPU, and the costs of its plans."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(case)), file=self._process.stdin, flush=True)
        seconds, cpu_seconds, costs = json.loads(self._process.stdout.readline())
        return seconds, cpu_seconds, costs

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def answer() -> None:
    """Makes the decisions that the standard input asks for, with what all versions of the package have."""
    decisions: dict[Case, Callable[[], tuple[object, AgentState]]] = {}
    for line in sys.stdin:
        case = Case(**json.loads(line))
        torch.set_num_threads(case.threads)
        if case not in decisions:
            decisions[case] = prepare(case)
        started, cpu_started = perf_counter(), process_time()
        _, state = decisions[case]()
        seconds, cpu_seconds = perf_counter() - started, process_time() - cpu_started
        costs = [decision.cost for decision in state.decisions if decision is not None]
        print(json.dumps([seconds, cpu_seconds, costs]), flush=True)


def prepare(case: Case) -> Callable[[], tuple[object, AgentState]]:
    """A decision, to be made any number of times, of episodes whose first block was executed."""
    agent = Agent.load(case.checkpoint, case.planner, device="cpu", bf16=False)
    rng, size = np.random.default_rng(0), agent.model.image_size
    observation = {view: rng.integers(0, 256, (case.episodes, size, size, 3), np.uint8) for view in ("pixels", "goal")}
    state = None
    for _ in range(agent.model.frameskip):
        _, state = agent.predict(observation, state)
    return partial(agent.predict, observation, state)


def compare(after: Contestant, before: Contestant, case: Case, rounds: int) -> dict[str, float]:
    """Times of both, their ratios, and the largest difference of their plans' costs."""
    times, difference = np.empty((rounds, 2, 2)), 0.0  # the last axes: clock and CPU, after and before
    for turn in range(-1, rounds):  # the first one warms up
        contestants = (after, before) if turn % 2 else (before, after)
        results = {contestant: contestant.decide(case) for contestant in contestants}
        *seconds, costs = zip(*(results[contestant] for contestant in (after, before)), strict=True)
        difference = max(difference, float(np.abs(np.subtract(*costs)).max()))
        if turn >= 0:
            times[turn] = seconds
    clock, cpu = np.median(times[:, :, 0] / times[:, :, 1], axis=0)
    after_ms, before_ms = 1000 * np.median(times[:, 0], axis=0)
    return {
        "after_ms": round(after_ms, 1),
        "before_ms": round(before_ms, 1),
        "after_to_before": round(clock, 3),
        "after_to_before_by_cpu_time": round(cpu, 3),
        "difference_of_costs": float(f"{difference:.2g}"),
    }


def main(
    other: Annotated[Path, typer.Argument(help="Root of the other checkout.", exists=True, file_okay=False)],
    checkpoint: Annotated[list[str] | None, typer.Option(help="Default: pusht-tiny and cube-tiny.")] = None,
    planner: Annotated[list[str] | None, typer.Option(help="Default: guided, cem and gradient.")] = None,
    episodes: Annotated[list[int] | None, typer.Option(help="Planned together (default: 1 and 16).")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Of the CPU (default: 1 and 2).")] = None,
    rounds: Annotated[int, typer.Option(help="Decisions of each that are timed.", min=1)] = 5,
) -> None:
    """Compare the planning speed of this checkout with that of another one."""
    cases = [
        Case(*values)
        for values in product(
            checkpoint or ["pusht-tiny", "cube-tiny"],
            planner or ["guided", "cem", "gradient"],
            episodes or [1, 16],
            threads or [1, 2],
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        after, before = (
            Contestant(root.resolve(), Path(folder, name)) for name, root in {"after": HERE, "before": other}.items()
        )
        console = Console(stderr=True)
        measured = {str(case): compare(after, before, case, rounds) for case in track(cases, console=console)}
        for contestant in (after, before):
            contestant.close()
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    answer() if sys.argv[1:] == [DECIDE] else typer.run(main)
