"""What all planners share: the budget, the meter that enforces it, the planning loop, and how candidates are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import islice
from time import perf_counter
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from lwm_agent.protocols import Objective, Plan, Planner, Problem


def check_types(settings: Any) -> None:
    """Raises TypeError where a field of a dataclass is not of its annotated type; an int may stand for a float."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        value, kind = getattr(settings, item.name), hints[item.name]
        accepted = kind | int if float in (kind, *get_args(kind)) else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{type(settings).__name__}: {item.name} must be {item.type}, got {value!r}")


def check_value(settings: Any, name: str, valid: bool, rule: str) -> None:
    """Raises ValueError that names the field, the rule that it breaks and its value, unless `valid`."""
    if not valid:
        raise ValueError(f"{type(settings).__name__}: {name} must be {rule}, got {getattr(settings, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that one call of `plan` may spend, in any of four units; None does not limit.

    Attributes:
        rollouts: candidate rollouts for each episode; one with a gradient counts twice.
        iterations: iterations of the planner, which stops at its own `iterations` in any case.
        flops: floating-point operations for each episode.
        seconds: wall time for the whole batch; the iteration under way is completed, and there is always one.
    """

    rollouts: int | None = None
    iterations: int | None = None
    flops: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for item in fields(self):
            value = getattr(self, item.name)
            check_value(self, item.name, value is None or value > 0, "positive, or None for no limit")


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
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = perf_counter()
        if self.budget.flops is not None:
            check_value(self, "flops_per_rollout", self.flops_per_rollout > 0, "positive under a budget in flops")

    @property
    def flops(self) -> float:
        """Floating-point operations spent for each episode."""
        return self.rollouts * self.flops_per_rollout

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs ``(B, S)`` of `actions` ``(B, S, T, F*A)``; a cost that is not a number counts as infinite."""
        # Weights are frozen, so the backward pass goes through activations only: about one more forward pass.
        self._spend(actions.shape[1] * (2 if actions.requires_grad else 1), actions.device)
        costs = self.objective(actions)
        if costs.shape != actions.shape[:2]:
            raise ValueError(f"objective must return (B, S) = {tuple(actions.shape[:2])}, got {tuple(costs.shape)}")
        if actions.requires_grad and not costs.requires_grad:
            raise ValueError("objective has no gradient: evaluate it without no_grad or detach, or use another planner")
        return costs.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _spend(self, rollouts: int, device: torch.device) -> None:
        total = self.rollouts + rollouts
        needs = {"rollouts": total, "flops": total * self.flops_per_rollout}
        for unit, needed in needs.items():
            limit = getattr(self.budget, unit)
            if limit is not None and needed > limit:
                raise OutOfBudget(f"Budget({unit}={limit}) is too small, {needed} {unit} an episode are needed")
        if self.budget.seconds is not None and self.rollouts > 0:
            if device.type == "cuda":  # kernels run asynchronously: without this, the clock measures their launch
                torch.cuda.synchronize(device)
            if perf_counter() - self.start >= self.budget.seconds:
                raise OutOfBudget(f"Budget(seconds={self.budget.seconds}) is spent")
        self.rollouts = total


@torch.no_grad()
def plan(planner: Planner, problem: Problem, budget: Budget = UNLIMITED, flops_per_rollout: float = 0.0) -> Plan:
    """Best plan that `planner` finds for `problem` within `budget`: the one loop around all planners.

    The planner stops after its own `iterations` at the latest. `flops_per_rollout`, the floating-point operations of
    one candidate, is needed by a budget in flops only.

    Raises:
        ValueError: wrong shapes, a budget below one iteration, or an episode without a candidate of finite cost.
    """
    check_problem(problem)
    meter = Meter(problem.objective, budget, flops_per_rollout)
    best_actions = problem.init
    best_cost = problem.init.new_full(problem.init.shape[:1], torch.inf)
    trace: list[Tensor] = []
    iterations = min(planner.iterations, budget.iterations or planner.iterations)
    try:
        for actions, cost in islice(planner.improve(replace(problem, objective=meter)), iterations):
            better = cost < best_cost
            best_actions = torch.where(better[:, None, None], actions, best_actions)
            best_cost = torch.where(better, cost, best_cost)
            trace.append(best_cost)
    except OutOfBudget as stop:
        if not trace:
            advice = "lower num_samples or raise the budget"
            raise ValueError(f"{stop} for one iteration of {type(planner).__name__}: {advice}") from None
    lost = best_cost.isposinf().nonzero().flatten().tolist()
    if lost:
        raise ValueError(f"no candidate of episodes {lost} has a finite cost: check the world model and its inputs")
    seconds = perf_counter() - meter.start
    return Plan(best_actions, best_cost, torch.stack(trace), meter.rollouts, meter.flops, seconds)


def check_problem(problem: Problem) -> None:
    """Raises ValueError that names the first part of `problem` whose shape does not fit."""
    shape = tuple(problem.init.shape)
    if len(shape) != 3:
        raise ValueError(f"Problem.init must be (B, T, F*A), got {shape}")
    batch, _, block = shape
    for name, wanted in {"scale": shape, "low": (block,), "high": (block,)}.items():
        found = tuple(getattr(problem, name).shape)
        if found != wanted:
            raise ValueError(f"Problem.{name} must be {wanted} to fit init {shape}, got {found}")
    if problem.action_size < 1 or block % problem.action_size:
        raise ValueError(f"Problem.action_size must divide the action block F*A = {block}, got {problem.action_size}")
    if len(problem.generators) != batch:
        raise ValueError(f"Problem.generators must be one for each of {batch} episodes, got {len(problem.generators)}")


def sample_noise(problem: Problem, num_samples: int, correlation: float) -> Tensor:
    """Standard normal noise ``(B, S, T, F*A)``, correlated over environment steps: AR(1) of coefficient `correlation`.

    Independent noise moves an agent like a random walk, which stays near its start; correlated noise keeps a direction
    (iCEM, arXiv 2008.06389). Steps inside a block and across its borders are treated alike.
    """
    init = problem.init
    _, horizon, block = init.shape
    env_steps = torch.arange(horizon * block // problem.action_size, device=init.device)
    lag = (env_steps[:, None] - env_steps).clamp_min(0)
    # Cholesky factor of the correlation matrix c^|i-j|, in closed form.
    factor = (correlation ** lag.to(init.dtype)).tril()
    factor[:, 1:] *= (1 - correlation**2) ** 0.5
    shape = (num_samples, problem.action_size, len(env_steps))
    # One product an episode, so that its rounding does not depend on the batch either.
    noise = [
        torch.randn(shape, generator=generator, device=init.device, dtype=init.dtype) @ factor.T  # (S, A, T*F)
        for generator in problem.generators
    ]
    return torch.stack(noise).transpose(2, 3).reshape(-1, num_samples, horizon, block)


def sample_actions(problem: Problem, mean: Tensor, std: Tensor, num_samples: int, correlation: float) -> Tensor:
    """Candidates ``(B, S, T, F*A)`` inside the bounds around `mean` ``(B, T, F*A)``; candidate 0 is `mean` itself."""
    noise = sample_noise(problem, num_samples, correlation)
    noise[:, 0] = 0
    return clamp(mean[:, None] + std[:, None] * noise, problem)


def clamp(actions: Tensor, problem: Problem) -> Tensor:
    """`actions` ``(..., F*A)``, moved inside the bounds."""
    return actions.clamp(problem.low, problem.high)


def select_best(candidates: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest of `candidates` ``(B, S, T, F*A)`` by `costs` ``(B, S)``: ``(B, T, F*A)`` and its cost ``(B,)``."""
    cost, index = costs.min(dim=1)
    return candidates.take_along_dim(index[:, None, None, None], dim=1).squeeze(1), cost
