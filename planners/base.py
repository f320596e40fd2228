"""The planning loop, which is the same for all planners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from lwm_agent.errors import BudgetError, UserError
from lwm_agent.protocols import Plan, Planner, Problem

from .budget import UNLIMITED, Budget
from .horizons import zero_padding
from .meter import Meter, MeteredDynamics, OutOfBudget, Watch, list_episodes
from .proposals import rank_proposals


def plan(
    planner: Planner,
    problem: Problem,
    budget: Budget = UNLIMITED,
    flops_per_rollout: float | Sequence[float] = 0.0,
    clock: Callable[[], float] = perf_counter,
    watch: Watch | None = None,
) -> Plan:
    """Best plan that `planner` finds for `problem` within `budget`: the one loop around all planners.

    It stops when the `budget` is spent or, without one, after the planner's own `iterations`. A budget that covers the
    proposals of the problem and no iteration leaves the best of them.

    Args:
        planner: the planner.
        problem: B planning problems; the plan of each does not depend on the others, but for a budget in seconds.
        budget: what the plan of each may spend.
        flops_per_rollout: floating-point operations of one candidate, for all episodes or one number for each; needed
            by a budget in flops only.
        clock: seconds since some moment.
        watch: sees all candidates and their costs, proposals first, call by call of the objective; it changes nothing.

    Raises:
        BudgetError: the budget is too small for any plan.
        UserError: wrong shapes, or an episode without a candidate of finite cost.
    """
    check_problem(problem)
    with _own_modes(problem.init.device):
        problem = _leave_inference(problem)
        return _plan(planner, problem, Meter(problem, budget, flops_per_rollout, clock, watch))


@contextmanager
def _own_modes(device: torch.device) -> Iterator[None]:
    """Modes in which all planners compute, whatever those of the caller: planners themselves ask for gradients."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def _leave_inference(problem: Problem) -> Problem:
    """`problem` with copies of the tensors that were made in inference mode, through which no gradient may pass."""
    tensors = {"init": problem.init, "scale": problem.scale, "low": problem.low, "high": problem.high}
    copies = {name: tensor.clone() for name, tensor in tensors.items() if tensor.is_inference()}
    return replace(problem, **copies) if copies else problem  # type: ignore[arg-type]


def _plan(planner: Planner, problem: Problem, meter: Meter) -> Plan:
    budget = meter.budget
    metered = _meter_problem(problem, meter)
    best = first_guess(metered)
    trace: list[Tensor] = []
    iterations = planner.iterations if budget == UNLIMITED else budget.iterations
    try:
        if problem.propose is not None:
            metered = _propose(metered, meter)
            assert metered.init_cost is not None
            best = metered.init, metered.init_cost
            meter.check_payments()
            meter.check_time()
        for candidate in planner.improve(metered):
            best = cheaper(best, candidate)
            trace.append(best[1])
            meter.finish_iteration(iterations)
            if meter.finished:
                break
    except OutOfBudget:
        pass
    _check_found(best[1], meter, planner)
    actions, cost = best
    seconds = meter.clock() - meter.start
    overshoot = 0.0 if budget.seconds is None else max(0.0, seconds - budget.seconds)
    steps = torch.stack(trace) if trace else cost.new_empty(0, len(cost))
    return Plan(actions, cost, steps, tuple(meter.rollouts), tuple(meter.flops), seconds, overshoot)


def _meter_problem(problem: Problem, meter: Meter) -> Problem:
    """`problem` as planners see it: calls are charged to `meter`, and what lies beyond a horizon is zero."""
    batch, longest = problem.init.shape[:2]
    dynamics = None
    if problem.dynamics is not None:
        step_flops = None if problem.step_flops is None else list_episodes("step_flops", problem.step_flops, batch)
        dynamics = MeteredDynamics(problem.dynamics, meter, step_flops)
    horizons = None if set(problem.horizons or ()) == {longest} else problem.horizons
    metered = replace(problem, objective=meter, dynamics=dynamics, horizons=horizons, spending=meter)
    return replace(metered, init=zero_padding(problem.init, metered))


def _propose(problem: Problem, meter: Meter) -> Problem:
    """`problem` with the cheapest of its proposals, each of which takes a rollout, as first guess, and the others."""
    assert problem.propose is not None
    meter.flops = list_episodes("propose_flops", problem.propose_flops, len(problem.init))
    proposals, costs = problem.propose()
    meter.spend(proposals.shape[1])
    proposals = zero_padding(proposals, problem)
    ranked, costs = rank_proposals(proposals, meter.admit(proposals, costs))
    if meter.budget.seconds is not None:
        meter.planned = (~costs[:, 0].isposinf()).tolist()
    problem = replace(problem, init=ranked[:, 0], init_cost=costs[:, 0])
    if ranked.shape[1] == 1:
        return problem
    return replace(problem, proposals=ranked[:, 1:], proposal_costs=costs[:, 1:])


def _check_found(cost: Tensor, meter: Meter, planner: Planner) -> None:
    """Raises ValueError unless the plan of each episode has a finite `cost` ``(B,)``."""
    lost = cost.isposinf().nonzero().flatten().tolist()
    for episode in lost:
        if meter.refusal(episode) and not meter.planned[episode]:
            advice = "lower num_samples, or num_proposals where an actor proposes, or raise the budget"
            raise BudgetError(f"{meter.refusal(episode)} for any plan of {type(planner).__name__}: {advice}")
    if lost:
        raise UserError(f"no candidate of episodes {lost} has a finite cost: check the world model and its inputs")


def check_problem(problem: Problem) -> None:
    """Raises ValueError that names the first part of `problem` whose shape does not fit."""
    shape = tuple(problem.init.shape)
    if len(shape) != 3:
        raise UserError(f"Problem.init must be (B, T, F*A), got {shape}")
    batch, longest, block = shape
    for name, wanted in {"scale": shape, "low": (block,), "high": (block,)}.items():
        actual = tuple(getattr(problem, name).shape)
        if actual != wanted:
            raise UserError(f"Problem.{name} must be {wanted} to fit init {shape}, got {actual}")
    if problem.action_size < 1 or block % problem.action_size:
        raise UserError(f"Problem.action_size must divide the action block F*A = {block}, got {problem.action_size}")
    if len(problem.generators) != batch:
        raise UserError(f"Problem.generators must be one for each of {batch} episodes, got {len(problem.generators)}")
    _check_horizons(problem.horizons, batch, longest)


def _check_horizons(horizons: tuple[int, ...] | None, batch: int, longest: int) -> None:
    if horizons is None:
        return
    if len(horizons) != batch:
        raise UserError(f"Problem.horizons must be one for each of {batch} episodes, got {len(horizons)}")
    if not all(type(horizon) is int and 1 <= horizon <= longest for horizon in horizons):
        raise UserError(f"Problem.horizons must be whole numbers from 1 to T = {longest}, got {horizons}")


def first_guess(problem: Problem) -> tuple[Tensor, Tensor]:
    """The first guess ``(B, T, F*A)`` at an infinite cost ``(B,)``, which any candidate beats."""
    return problem.init, problem.init.new_full(problem.init.shape[:1], torch.inf)


def cheaper(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The cheaper of two plans ``(B, T, F*A)`` with their costs ``(B,)``, episode by episode; the old one if equal."""
    wins = new[1] < old[1]
    return torch.where(wins[:, None, None], new[0], old[0]), torch.where(wins, new[1], old[1])
