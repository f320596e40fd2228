"""`lwm-agent compare`: models under the same planning compute, cell by cell, and the report of all cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from ..agent.agent import Agent
from ..checkpoint import Checkpoint
from ..checkpoint_config import REPLAN
from ..compute.device import any_gpu
from ..errors import BudgetError, UserError
from ..eval.accounting import ModelAccount
from ..eval.comparison import BELOW_PLAN, BELOW_ROLLOUT, PLAYED, POLICY, Cell, ModelComparison
from ..eval.comparison_files import write_comparison
from ..eval.figures import new_figure
from ..eval.provenance import command_line, machine
from ..eval.results_file import parse_results
from .accounting import account_of, encoding_ms, frames_a_decision
from .comparison_config import CompareConfig
from .comparison_grid import Entrant, Job, find_entrants, folder_of, make_floor_jobs, make_jobs
from .config import EvalConfig, protocol_settings
from .engines import DONE, FAILED, Outcome, attempt, parallel_jobs, run_jobs
from .evaluate import run_evaluation
from .fitting import Prices, fit, prices_of

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Costs:
    """Costs of an entrant, measured once.

    Attributes:
        account: those that follow from its checkpoint.
        encode_ms: median milliseconds of encoding one frame alone.
        frames: frames encoded a decision.
        prices: of a search; None for a policy that acts by itself.
        agent: settings of the agent that make decisions comparable.
    """

    account: ModelAccount
    encode_ms: float
    frames: float
    prices: Prices | None
    agent: Mapping[str, Any]


def run_comparison(config: CompareConfig, progress: Progress = lambda *_: None) -> ModelComparison:
    """Plays all cells and writes the tables, figures and report; the same settings go on where they stopped.

    A cell whose budget affords no rollout is not played, and one that fails does not stop the others: both are in the
    comparison that is returned, with the reason.

    Args:
        config: settings.
        progress: called with the number of cells that are over, that of all cells, and the last one's name.

    Raises:
        UserError: settings and checkpoints do not fit, no cell could be played, or matplotlib is not installed.
    """
    new_figure(1, 1)  # first: without matplotlib, nothing need be played
    entrants = find_entrants(config)
    costs = {(entrant.checkpoint, entrant.reactive): _measure(config, entrant) for entrant in entrants}
    by_name = {(entrant.model, entrant.env, entrant.training_seed): entrant for entrant in entrants}
    jobs, floors = make_jobs(config, entrants), make_floor_jobs(config)

    def costs_of(job: Job) -> Costs:
        entrant = by_name[job.key.model, job.key.env, job.key.training_seed]
        return costs[entrant.checkpoint, entrant.reactive]

    jobs = [_fitted(job, costs_of(job)) for job in jobs]
    outcomes = {job.key: outcome for job in jobs if (outcome := _unaffordable(job, costs_of(job))) is not None}
    playable = [job for job in (*floors, *jobs) if job.key not in outcomes]
    parallel = parallel_jobs(config, len(playable), timed=bool(config.budget_ms))
    with closing(run_jobs(playable, play, config.engine, parallel, config.address, any_gpu(config.device))) as results:
        for job, outcome in results:
            outcomes[job.key] = outcome
            progress(len(outcomes), len(jobs) + len(floors), cell_name(job))
    cells = tuple(_cell(job, outcomes[job.key], costs_of(job)) for job in jobs)
    if not any(cell.status == PLAYED for cell in cells):
        worst = next((cell for cell in cells if cell.status == FAILED), cells[0])
        raise UserError(f"no cell could be played: {worst.status}, {worst.message}")
    comparison = ModelComparison(
        cells=cells,
        floors=tuple(_cell(job, outcomes[job.key], None) for job in floors),
        info=_info(config, [job for job in jobs if outcomes[job.key].status == DONE]),
    )
    write_comparison(comparison, config.out, {job.key: folder_of(job.key) for job in jobs}, config.video)
    return comparison


def play(job: Job) -> Outcome:
    """Plays a cell, or the rest of it."""
    return attempt(lambda: _play(job.config), job.config.output_dir)


def _play(config: EvalConfig) -> Outcome:
    try:
        run_evaluation(config)
    except BudgetError as error:
        return Outcome(BELOW_PLAN, str(error))
    return Outcome()


def failures(comparison: ModelComparison) -> list[Cell]:
    """Cells that failed."""
    return [cell for cell in (*comparison.floors, *comparison.cells) if cell.status == FAILED]


def cell_name(job: Job) -> str:
    """A cell in words."""
    key = job.key
    planner = "" if key.planner in (POLICY, key.model) else f" {key.planner} {key.limit}"
    return f"{key.env} {key.offset} {key.model}{planner}"


def _measure(config: CompareConfig, entrant: Entrant) -> Costs:
    checkpoint = Checkpoint.load(entrant.checkpoint)
    # Equal compute is that of as many decisions: one a block, whatever a checkpoint recommends.
    often = {} if config.protocol == "lewm-paper" else {REPLAN: checkpoint.model.frameskip}
    settings = {**protocol_settings(config.protocol, "agent"), **often, **config.agent_settings}
    agent = Agent(checkpoint, POLICY if entrant.reactive else None, device=config.device, **settings)
    prices = None if agent.planner.reactive else prices_of(agent)
    return Costs(account_of(agent), encoding_ms(agent), frames_a_decision(agent), prices, often)


def _fitted(job: Job, costs: Costs) -> Job:
    """The cell with a search that its budget affords."""
    search: Mapping[str, Any] = {}
    agent = costs.agent
    if costs.prices is not None:
        search, fitted = fit(job.key.planner, job.config.planner_settings, costs.prices, job.key.limit)
        agent = {**agent, **fitted}
    config = replace(
        job.config,
        planner_settings={**search, **job.config.planner_settings},
        agent_settings={**agent, **job.config.agent_settings},
    )
    return replace(job, config=config)


def _unaffordable(job: Job, costs: Costs) -> Outcome | None:
    """The outcome of a cell whose budget is below one rollout; None for others."""
    prices, limit = costs.prices, job.key.limit
    if limit.unit != "flops" or prices is None or prices.afforded(limit) >= 1:
        return None
    return Outcome(BELOW_ROLLOUT, f"one rollout takes {prices.rollout_flops / 1e9:.3g} GFLOP")


def _cell(job: Job, outcome: Outcome, costs: Costs | None) -> Cell:
    """The cell with what its evaluation has written."""
    known: dict[str, Any] = {}
    if costs is not None:
        known = {"account": costs.account, "encode_ms": costs.encode_ms, "frames": costs.frames}
    if outcome.status != DONE:
        return Cell(key=job.key, status=outcome.status, message=outcome.message, **known)
    results = parse_results(job.config.output_dir / "results.json")
    return Cell(
        key=job.key, summary=results.summary, solved=results.solved, checkpoint=results.run["checkpoint"], **known
    )


def _info(config: CompareConfig, played: Sequence[Job]) -> dict[str, Any]:
    """Command, tasks, versions and hardware."""
    tasks = {}
    for job in played:
        run = parse_results(job.config.output_dir / "results.json").run
        tasks[f"{job.key.env}-{job.key.offset}"] = run["tasks"]
    return {
        "command": command_line(),
        "protocol": config.protocol,
        "split": config.split,
        "seed": config.seed,
        "engine": config.engine,
        "batch_size": config.batch_size,
        "jobs": config.jobs,
        "tasks": tasks,
        **machine(),
    }
