"""`lwm-agent bench`: how long a decision takes, and what share of the machine's arithmetic it uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..agent.agent import Agent
from ..agent.config import load_agent
from ..agent.state import Decision
from ..checkpoint import checksum
from ..compute.device import peak_memory, synchronize
from ..eval.figures import new_figure
from ..eval.latency_figure import latency_plot
from ..eval.provenance import command_line, machine
from ..files import write_text
from .config import MIN_DECISIONS, BenchConfig

WARM_UP = 3  # decisions before the first that is timed
PRODUCT_SIDES, PRODUCT_REPEATS = (512, 1024, 2048, 8192), 5


@dataclass(frozen=True)
class Timing:
    """Decisions for a batch of episodes: pictures in, actions out.

    Attributes:
        batch: episodes decided for at once.
        decisions: decisions timed.
        p50_ms: median wall time of a decision for the whole batch.
        p95_ms: its 95th percentile; None where fewer than 20 decisions were timed.
        p99_ms: its 99th percentile; None where fewer than 100 were.
        plans_per_second: plans, one an episode, in a second.
        rollouts: candidate rollouts for one episode.
        flops: floating-point operations of a decision for an episode, encoder excluded.
        flops_per_second: `flops` of all episodes in a second.
        peak_memory_mib: most memory so far: allocated on a GPU, else resident in this process; None if unknown.
        overshoot_ms: most milliseconds by which a plan exceeded its budget.
    """

    batch: int
    decisions: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    plans_per_second: float
    rollouts: int
    flops: float
    flops_per_second: float
    peak_memory_mib: float | None
    overshoot_ms: float


@dataclass(frozen=True)
class Report:
    """Timings by batch size, and floating-point operations a second of plain matrix products in the same run."""

    timings: list[Timing]
    peak_flops_per_second: float

    def share(self, timing: Timing) -> float:
        """Share of the peak that planning reaches, in [0, 1]."""
        return timing.flops_per_second / self.peak_flops_per_second


def run_bench(config: BenchConfig, progress: Callable[[int, int, str], object] = lambda *_: None) -> Report:
    """Times decisions on random pictures, batch size by batch size; writes ``bench.json`` and its picture.

    No environment is run: the time of a decision depends neither on what the pictures show nor on an episode's age.

    Raises:
        ValueError: unknown names, settings out of range, or no matplotlib for the plot.
    """
    if config.plot:
        new_figure(1, 1)  # first: without matplotlib, nothing need be timed
    agent = load_agent(config)
    timings: list[Timing] = []
    for batch in config.batch_sizes:
        progress(len(timings), len(config.batch_sizes), f"batch of {batch}")
        timings.append(time_batch(agent, batch, config))
    progress(len(timings), len(config.batch_sizes), "matrix products")
    # Last, because its matrices count as memory.
    report = Report(timings, product_peak(agent.device, _precision(agent)))
    contents = {
        "command": command_line(),
        "checkpoint": checksum(config.checkpoint_name),
        "planner": {"name": config.planner, **asdict(agent.planner), "budget": asdict(config.budget)},  # type: ignore[call-overload]
        "agent": agent.settings(),
        "max_rollouts": agent.max_rollouts,
        "observations": "random pictures",
        "peak_flops_per_second": report.peak_flops_per_second,
        "timings": [{**asdict(timing), "share_of_peak": report.share(timing)} for timing in timings],
        **machine(),
    }
    written = config.output_dir / "bench.json"
    write_text(written, json.dumps(contents, indent=1, allow_nan=False) + "\n")
    if config.plot:
        latency_plot(written, written.with_suffix(".png"))
    return report


def _precision(agent: Agent) -> torch.dtype:
    """Number type of most of the agent's products."""
    return torch.int8 if agent.int8 else torch.bfloat16 if agent.bf16 else torch.float32


def product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest square matrix product on `device`."""
    fastest, multiply = 0.0, torch._int_mm if dtype == torch.int8 else torch.mm
    # The largest would take a CPU minutes, and a GPU is not busy with less.
    for side in PRODUCT_SIDES[:-1] if device.type == "cpu" else PRODUCT_SIDES:
        factor = (10 * torch.randn(side, side, device=device)).to(dtype)
        for _ in range(PRODUCT_REPEATS):
            synchronize(device)
            started = perf_counter()
            multiply(factor, factor)
            synchronize(device)
            fastest = max(fastest, 2 * side**3 / (perf_counter() - started))
    return fastest


def time_batch(agent: Agent, batch: int, config: BenchConfig) -> Timing:
    """Times decisions for `batch` episodes."""
    calls = _decisions(agent, batch, config.seed)
    for _ in range(WARM_UP):  # until all is warm
        next(calls)
    seconds: list[float] = []
    overshoot = 0.0
    while len(seconds) < MIN_DECISIONS or (len(seconds) < config.decisions and sum(seconds) < config.seconds):
        taken, decision = next(calls)
        seconds.append(taken)
        overshoot = max(overshoot, decision.overshoot)
    rate = batch * len(seconds) / sum(seconds)
    return Timing(
        batch=batch,
        decisions=len(seconds),
        p50_ms=float(1000 * np.median(seconds)),
        p95_ms=percentile_ms(seconds, 95),
        p99_ms=percentile_ms(seconds, 99),
        plans_per_second=rate,
        rollouts=decision.rollouts,
        flops=decision.flops,
        flops_per_second=rate * decision.flops,
        peak_memory_mib=peak_memory(agent.device),
        overshoot_ms=1000 * overshoot,
    )


def percentile_ms(seconds: Sequence[float], share: int) -> float | None:
    """The percentile `share` in ms; None where so few `seconds` are no more than their maximum tells."""
    return float(1000 * np.percentile(seconds, share)) if len(seconds) * (100 - share) >= 100 else None


def _decisions(agent: Agent, batch: int, seed: int) -> Iterator[tuple[float, Decision]]:
    """Wall time in s of one decision after the other for `batch` episodes, and what it took for the first of them."""
    rng, shape = np.random.default_rng(seed), (batch, agent.model.image_size, agent.model.image_size, 3)
    observation = {name: rng.integers(0, 256, shape, np.uint8) for name in ("pixels", "goal")}
    state = None
    while True:
        started = perf_counter()
        _, state = agent.predict(observation, state)  # ends on the CPU: nothing is left to wait for
        taken, decision = perf_counter() - started, state.decisions[0]
        if decision is not None:  # else the actions came from the last plan
            yield taken, decision


def three_digits(value: float) -> str:
    """A positive number with three digits or, if it is larger, as a whole one; never with an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-4 else f"{value:.7f}".rstrip("0")


def table(report: Report, title: str) -> Table:
    """One line a batch size."""
    columns = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("batch", "n", "p50 ms", "p95 ms", "p99 ms", "plans/s", "rollouts", "GFLOP", "% of peak", "MiB"):
        columns.add_column(name, justify="right", no_wrap=True)
    for row in report.timings:
        figures = (row.p50_ms, row.p95_ms, row.p99_ms, row.plans_per_second)
        latencies = ("-" if value is None else three_digits(value) for value in figures)
        memory = "-" if row.peak_memory_mib is None else f"{row.peak_memory_mib:.0f}"
        spent = (str(row.rollouts), three_digits(row.flops / 1e9), f"{100 * report.share(row):.0f}", memory)
        columns.add_row(str(row.batch), str(row.decisions), *latencies, *spent)
    return columns
