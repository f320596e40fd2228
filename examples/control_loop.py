"""A control loop at a fixed rate, with a latency budget and a stop where the world does not make sense: see --help.

Give `control` an object with the three methods of `Robot`. Here, an environment stands in for it, whose block somebody
moves by hand after a while.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import gymnasium as gym
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from lwm_agent import Agent, shipped_tasks


class Robot(Protocol):
    """A robot whose camera and motors are driven by this loop."""

    def observe(self) -> dict[str, NDArray[np.uint8]]:
        """Camera picture and goal picture, ``{"pixels", "goal"}``, of the size that the model sees."""
        ...

    def act(self, action: NDArray[np.float32]) -> None:
        """Starts an action ``(A,)``, which lasts until the next command; returns at once."""
        ...

    def stop(self) -> None:
        """Halts the motors, until the next action."""
        ...


@dataclass(frozen=True)
class Report:
    """Outcome of a run.

    Attributes:
        ticks: ticks of the clock.
        late: ticks at which no decision was there in time.
        slowest_ms: longest time to a decision that was in time.
        surprises: surprise of each tick that had a decision, NaN where nothing was predicted yet.
        stopped: whether the surprise ended the run.
    """

    ticks: int
    late: int
    slowest_ms: float
    surprises: tuple[float, ...]
    stopped: bool


def control(
    agent: Agent,
    robot: Robot,
    *,
    rate_hz: float,
    num_ticks: int,
    max_surprise: float,
    latency_ms: float | None = None,
    hold: bool = True,
) -> Report:
    """Drives `robot` for `num_ticks`, or until a surprise above `max_surprise`.

    A decision that takes longer than `latency_ms` (by default the time between two ticks) is late. The robot then holds
    its last action, or stops if `hold` is False. When a late decision is there, it is of a moment that has passed: it
    is thrown away, and the agent begins anew with what it sees now.
    """
    period, waiting = 1 / rate_hz, (1000 / rate_hz if latency_ms is None else latency_ms) / 1000
    state: Any = None
    last: NDArray[np.float32] | None = None
    overdue: Future[Any] | None = None
    surprises: list[float] = []
    late, slowest, begin, tick, stopped = 0, 0.0, time.perf_counter(), 0, False
    with ThreadPoolExecutor(1) as worker:  # so that the clock goes on while the agent plans
        try:
            while tick < num_ticks and not stopped:
                tick += 1
                time.sleep(max(0.0, begin + tick * period - time.perf_counter()))
                observation, started = robot.observe(), time.perf_counter()
                try:
                    if overdue is not None:
                        overdue.result(0)  # thrown away; not there yet, it is late once more
                        state = None
                    overdue = worker.submit(agent.predict, observation, state)
                    last, state = overdue.result(waiting)
                except Late:
                    late += 1
                    robot.stop() if last is None or not hold else robot.act(last)
                    continue
                overdue, slowest = None, max(slowest, time.perf_counter() - started)
                surprises.append(float(state.surprise[0]))
                stopped = surprises[-1] > max_surprise
                if not stopped:
                    robot.act(last)
        finally:
            robot.stop()  # before anything else, whatever happened
    return Report(tick, late, 1000 * slowest, tuple(surprises), stopped)


class SimulatedRobot:
    """Push-T in the place of a robot: somebody moves the block by hand after `knock_at` actions."""

    def __init__(self, knock_at: int | None = None, task: int = 82) -> None:
        self._env = gym.make("lwm/PushT-v0", terminate_on_success=False)
        self._observation, _ = self._env.reset(options=shipped_tasks("pusht").tasks[task].reset_options)
        self.knock_at, self.actions, self.stops = knock_at, 0, 0

    def observe(self) -> dict[str, NDArray[np.uint8]]:
        """Implements `Robot`."""
        return self._observation

    def act(self, action: NDArray[np.float32]) -> None:
        """Implements `Robot`: a step of the simulation, which takes the place of the time that passes."""
        self._observation, *_ = self._env.step(action)
        self.actions += 1
        if self.actions == self.knock_at:
            env: Any = self._env.unwrapped
            state = env.get_state()
            state[2:4] = 512 - state[2:4]
            env.set_state(state)
            self._observation["pixels"] = env.picture(env.get_state())

    def stop(self) -> None:
        """Implements `Robot`."""
        self.stops += 1


def main(
    rate: Annotated[float, typer.Option(help="Ticks a second.", min=0.1)] = 5.0,
    ticks: Annotated[int, typer.Option(help="Most ticks of the run.", min=1)] = 40,
    max_surprise: Annotated[float, typer.Option(help="Surprise that ends the run.", min=0)] = 12.0,
    knock: Annotated[int, typer.Option(help="Action after which the block is moved by hand.", min=1)] = 20,
    planner: Annotated[str, typer.Option(help="Planner.")] = "guided",
) -> None:
    """Drives a simulated robot until the block is moved by hand."""
    agent = Agent.load("pusht-tiny", planner, keep_surprise=True)
    report = control(agent, SimulatedRobot(knock), rate_hz=rate, num_ticks=ticks, max_surprise=max_surprise)
    words = f"stopped by a surprise of {report.surprises[-1]:.0f}" if report.stopped else "not surprised"
    console = Console()
    console.print(f"{report.ticks} ticks at {rate:g} Hz, {report.late} late decisions; {words}")
    console.print(f"slowest decision in time: {report.slowest_ms:.0f} ms")


if __name__ == "__main__":
    typer.run(main)
