"""What all planners share: the budget, the meter that enforces it, and the planning loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from time import perf_counter

import torch
from torch import Tensor

from lwm_agent.compute.device import synchronize
from lwm_agent.errors import UserError
from lwm_agent.protocols import Dynamics, Objective, Plan, Planner, Problem

from .checks import check_types, check_value
from .sampling import select_best


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that one call of `plan` may spend, in any of four units; None does not limit.

    With a limit, a planner goes on until the next iteration would exceed it, whatever its own `iterations`; of a chain,
    that is the last planner.

    Attributes:
        rollouts: candidate rollouts for each episode; one with a gradient counts twice.
        iterations: iterations of the planner.
        flops: floating-point operations for each episode, of its candidates and its proposals.
        seconds: wall time for the whole batch; the call of the model under way is completed, and the first ones, until
            there is a plan.
    """

    rollouts: int | None = None
    iterations: int | None = None
    flops: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for item in fields(self):
            value = getattr(self, item.name)
            valid = value is None or 0 < value < float("inf")
            check_value(self, item.name, valid, "positive and finite, or None for no limit")


UNLIMITED = Budget()


class OutOfBudget(Exception):  # noqa: N818  (the signal that ends a plan, not an error)
    """Raised by a `Meter` in place of a call that the budget does not cover."""


@dataclass
class Meter:
    """An objective that counts what it spends for each episode, and refuses a call that the budget does not cover."""

    objective: Objective
    budget: Budget = UNLIMITED
    flops_per_rollout: float = 0.0
    rollouts: int = field(default=0, init=False)
    flops: float = field(default=0.0, init=False)  # spent for each episode
    start: float = field(init=False)
    has_plan: bool = field(default=False, init=False)  # until then, the clock stops nothing

    def __post_init__(self) -> None:
        self.start = perf_counter()
        if self.budget.flops is not None:
            check_value(self, "flops_per_rollout", self.flops_per_rollout > 0, "positive under a budget in flops")

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs ``(B, S)`` of `actions` ``(B, S, T, F*A)``; a cost that is not a number counts as infinite."""
        self.spend(actions, actions.requires_grad)
        costs = self.objective(actions)
        if costs.shape != actions.shape[:2]:
            raise UserError(f"objective must return (B, S) = {tuple(actions.shape[:2])}, got {tuple(costs.shape)}")
        if actions.requires_grad and not costs.requires_grad:
            raise UserError("objective has no gradient: evaluate it without no_grad or detach, or use another planner")
        return finite(costs)

    def spend(self, actions: Tensor, differentiated: bool = False, flops_each: float | None = None) -> None:
        """Charges one rollout for each of the candidates `actions` ``(B, S, T, F*A)``, two if `differentiated`.

        `flops_each` are those of a candidate, where they are not those of a rollout.
        """
        # Weights are frozen, so the backward pass goes through activations only: about one more forward pass.
        charged = actions.shape[1] * (2 if differentiated else 1)
        rollouts = self.rollouts + charged
        flops = self.flops + charged * (self.flops_per_rollout if flops_each is None else flops_each)
        for unit, needed in {"rollouts": rollouts, "flops": flops}.items():
            limit = getattr(self.budget, unit)
            if limit is not None and needed > limit:
                raise OutOfBudget(f"Budget({unit}={limit}) is too small, {needed} {unit} an episode are needed")
        if self.budget.seconds is not None and self.has_plan:
            synchronize(actions.device)
            if perf_counter() - self.start >= self.budget.seconds:
                raise OutOfBudget(f"Budget(seconds={self.budget.seconds}) is spent")
        self.rollouts, self.flops = rollouts, flops


@dataclass(frozen=True)
class MeteredDynamics:
    """Dynamics that charge a meter: T steps of a candidate, whether or not they follow each other, are a rollout.

    Those that do not follow each other are `step_flops`.
    """

    dynamics: Dynamics
    meter: Meter
    step_flops: float | None

    @property
    def start(self) -> Tensor:
        """Latent of the present, ``(B, *Z)``."""
        return self.dynamics.start

    @property
    def goal(self) -> Tensor:
        """Latent of the goal, ``(B, *Z)``."""
        return self.dynamics.goal

    def rollout(self, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``."""
        self.meter.spend(actions, actions.requires_grad)
        return self.dynamics.rollout(actions)

    def step(self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *of: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Dynamics`."""
        self.meter.spend(actions, differentiated=True, flops_each=self.step_flops)
        return self.dynamics.step(latents, actions, loss, *of)


@torch.no_grad()
def plan(planner: Planner, problem: Problem, budget: Budget = UNLIMITED, flops_per_rollout: float = 0.0) -> Plan:
    """Best plan that `planner` finds for `problem` within `budget`: the one loop around all planners.

    It stops when the `budget` is spent or, without one, after the planner's own `iterations`. A budget that covers the
    proposals of the problem and no iteration leaves the best of them. `flops_per_rollout`, the floating-point
    operations of one candidate, is needed by a budget in flops only.

    Raises:
        ValueError: wrong shapes, a budget too small for any plan, or an episode without a candidate of finite cost.
    """
    check_problem(problem)
    meter = Meter(problem.objective, budget, flops_per_rollout)
    dynamics = None if problem.dynamics is None else MeteredDynamics(problem.dynamics, meter, problem.step_flops)
    metered = replace(problem, objective=meter, dynamics=dynamics)
    best = nothing_yet(problem)
    trace: list[Tensor] = []
    iterations = planner.iterations if budget == UNLIMITED else budget.iterations
    try:
        if problem.propose is not None:
            meter.flops = problem.propose_flops
            best = best_guess(*problem.propose(), meter)
            metered = replace(metered, init=best[0])
            meter.has_plan = not best[1].isposinf().any()
        for found in islice(planner.improve(metered), iterations):
            best = better(best, found)
            trace.append(best[1])
            meter.has_plan = True
    except OutOfBudget as stop:
        if not meter.has_plan:
            advice = "lower num_samples, or num_proposals where an actor proposes, or raise the budget"
            raise UserError(f"{stop} for any plan of {type(planner).__name__}: {advice}") from None
    actions, cost = best
    lost = cost.isposinf().nonzero().flatten().tolist()
    if lost:
        raise UserError(f"no candidate of episodes {lost} has a finite cost: check the world model and its inputs")
    seconds = perf_counter() - meter.start
    overshoot = 0.0 if budget.seconds is None else max(0.0, seconds - budget.seconds)
    steps = torch.stack(trace) if trace else cost.new_empty(0, len(cost))
    return Plan(actions, cost, steps, meter.rollouts, meter.flops, seconds, overshoot)


def best_guess(guesses: Tensor, costs: Tensor, meter: Meter) -> tuple[Tensor, Tensor]:
    """The cheapest ``(B, T, F*A)`` of `guesses` ``(B, P, T, F*A)``, each of which took a rollout, and its cost."""
    meter.spend(guesses)
    return select_best(guesses, finite(costs))


def finite(costs: Tensor) -> Tensor:
    """`costs`, infinite where they are not a number."""
    return costs.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def check_problem(problem: Problem) -> None:
    """Raises ValueError that names the first part of `problem` whose shape does not fit."""
    shape = tuple(problem.init.shape)
    if len(shape) != 3:
        raise UserError(f"Problem.init must be (B, T, F*A), got {shape}")
    batch, _, block = shape
    for name, wanted in {"scale": shape, "low": (block,), "high": (block,)}.items():
        found = tuple(getattr(problem, name).shape)
        if found != wanted:
            raise UserError(f"Problem.{name} must be {wanted} to fit init {shape}, got {found}")
    if problem.action_size < 1 or block % problem.action_size:
        raise UserError(f"Problem.action_size must divide the action block F*A = {block}, got {problem.action_size}")
    if len(problem.generators) != batch:
        raise UserError(f"Problem.generators must be one for each of {batch} episodes, got {len(problem.generators)}")


def nothing_yet(problem: Problem) -> tuple[Tensor, Tensor]:
    """The first guess ``(B, T, F*A)`` at an infinite cost ``(B,)``, which any candidate beats."""
    return problem.init, problem.init.new_full(problem.init.shape[:1], torch.inf)


def better(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The cheaper of two plans ``(B, T, F*A)`` with their costs ``(B,)``, episode by episode; the old one if equal."""
    wins = new[1] < old[1]
    return torch.where(wins[:, None, None], new[0], old[0]), torch.where(wins, new[1], old[1])
