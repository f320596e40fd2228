"""The meter, which counts what the plan of each episode spends and enforces the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from lwm_agent.compute.device import synchronize
from lwm_agent.errors import UserError
from lwm_agent.protocols import Dynamics, Problem

from .budget import UNLIMITED, Budget

Watch = Callable[[Tensor, Tensor], None]
"""Sees candidates ``(B, S, T, F*A)`` and their costs ``(B, S)``, which it must not change."""


class OutOfBudget(Exception):  # noqa: N818  (the signal that ends a plan, not an error)
    """Raised by a `Meter` in place of a call that the budget covers for no episode."""


class Meter:
    """An objective that counts what it spends for each episode, and refuses calls that the budget does not cover.

    Where it covers a call for some episodes only, the costs of the others are infinite, in this call and in all that
    follow, and nothing is charged to them: they keep their plan. All counts are numbers of the host.

    Args:
        problem: the planning problem, of B episodes.
        budget: what each of them may spend.
        flops_per_rollout: floating-point operations of a candidate, of each episode or of all alike.
        clock: seconds since some moment.
        watch: sees the candidates of every call and their costs.

    Attributes:
        rollouts: spent for each episode.
        flops: spent for each episode, proposals included.
        iterations: completed for each episode.
        planned: which episodes have a plan; while one has none, the clock stops nothing.
    """

    def __init__(
        self,
        problem: Problem,
        budget: Budget = UNLIMITED,
        flops_per_rollout: float | Sequence[float] = 0.0,
        clock: Callable[[], float] = perf_counter,
        watch: Watch | None = None,
    ) -> None:
        batch = len(problem.init)
        self.objective = problem.objective
        self.device = problem.init.device
        self.budget = budget
        self.flops_per_rollout = list_episodes("flops_per_rollout", flops_per_rollout, batch)
        if budget.flops is not None and min(self.flops_per_rollout) <= 0:
            raise UserError(
                f"Meter: flops_per_rollout must be positive under a budget in flops, got {flops_per_rollout}"
            )
        self.clock = clock
        self.watch = watch
        self.start = clock()
        self.rollouts = [0] * batch
        self.flops = [0.0] * batch
        self.iterations = [0] * batch
        self.planned = [False] * batch
        self._refusals = [""] * batch  # of the last call that an episode could not pay
        self._finished = [False] * batch  # all iterations of the budget done
        self._mask: tuple[tuple[bool, ...], Tensor] | None = None

    @property
    def exhausted(self) -> Sequence[bool]:
        """One entry an episode, true where it may not spend any more."""
        return [done or bool(refusal) for done, refusal in zip(self._finished, self._refusals, strict=True)]

    @property
    def finished(self) -> bool:
        """True if all episodes have done all iterations of the budget."""
        return all(self._finished)

    def refusal(self, episode: int) -> str:
        """Message about the call that an episode could not pay; empty if there was none."""
        return self._refusals[episode]

    def reopen(self) -> None:
        """Lets the episodes that could not pay the last call try others, which may be cheaper."""
        self._refusals = [""] * len(self._refusals)

    def finish_iteration(self, iterations: int | None) -> None:
        """Counts an iteration of every episode that took part in it, and closes those that have done `iterations`."""
        for episode, exhausted in enumerate(self.exhausted):
            if not exhausted:
                self.planned[episode] = True
                self.iterations[episode] += 1
                self._finished[episode] = self.iterations[episode] == iterations

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs ``(B, S)`` of `actions` ``(B, S, T, F*A)``; a cost that is not a number counts as infinite."""
        self.spend(actions.shape[1], actions.requires_grad)
        costs = self.objective(actions)
        if costs.shape != actions.shape[:2]:
            raise UserError(f"objective must return (B, S) = {tuple(actions.shape[:2])}, got {tuple(costs.shape)}")
        if actions.requires_grad and not costs.requires_grad:
            raise UserError("objective has no gradient: evaluate it without no_grad or detach, or use another planner")
        return self.admit(actions, costs)

    def admit(self, actions: Tensor, costs: Tensor) -> Tensor:
        """`costs` ``(B, S)`` of `actions`, infinite where they are no number, and for episodes that are exhausted."""
        costs = self._admit(costs)
        if self.watch is not None:
            self.watch(actions.detach(), costs.detach())
        return costs

    def _admit(self, costs: Tensor) -> Tensor:
        costs = costs.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        exhausted = tuple(self.exhausted)
        if not any(exhausted):
            return costs
        if self._mask is None or self._mask[0] != exhausted:
            self._mask = exhausted, torch.tensor(exhausted, device=self.device)
        return costs.masked_fill(self._mask[1][:, None], torch.inf)

    def spend(self, samples: int, differentiated: bool = False, flops_each: Sequence[float] | None = None) -> None:
        """Charges one rollout for each of the `samples` candidates of an episode, two if `differentiated`.

        `flops_each` are those of a candidate of each episode, where they are not those of a rollout.

        Raises:
            OutOfBudget: no episode can pay, or the time is over.
        """
        # Weights are frozen, so the backward pass goes through activations only: about one more forward pass.
        charged = samples * (2 if differentiated else 1)
        each = self.flops_per_rollout if flops_each is None else flops_each
        rollouts = [spent + charged for spent in self.rollouts]
        flops = [spent + charged * own for spent, own in zip(self.flops, each, strict=True)]
        exhausted = self.exhausted
        for episode in range(len(rollouts)):
            if not exhausted[episode]:
                self._refusals[episode] = self._refuse(rollouts[episode], flops[episode])
        exhausted = self.exhausted
        if all(exhausted):
            raise OutOfBudget
        self.check_time()
        for episode in range(len(rollouts)):
            if not exhausted[episode]:
                self.rollouts[episode], self.flops[episode] = rollouts[episode], flops[episode]

    def _refuse(self, rollouts: int, flops: float) -> str:
        for unit, needed, limit in (
            ("rollouts", rollouts, self.budget.rollouts),
            ("flops", flops, self.budget.flops),
        ):
            if limit is not None and needed > limit:
                return f"Budget({unit}={limit}) is too small, {needed} {unit} an episode are needed"
        return ""

    def check_payments(self) -> None:
        """Raises OutOfBudget if any episode could not pay the last call."""
        if any(self._refusals):
            raise OutOfBudget

    def check_time(self) -> None:
        """Raises OutOfBudget if the time is over and there is a plan for every episode that may still have one."""
        if self.budget.seconds is None:
            return
        if all(planned or exhausted for planned, exhausted in zip(self.planned, self.exhausted, strict=True)):
            synchronize(self.device)
            if self.clock() - self.start >= self.budget.seconds:
                raise OutOfBudget


@dataclass(frozen=True)
class MeteredDynamics:
    """Dynamics that charge a meter: T steps of a candidate, whether or not they follow each other, are a rollout.

    Those that do not follow each other cost `step_flops` for a candidate of each episode.
    """

    dynamics: Dynamics
    meter: Meter
    step_flops: Sequence[float] | None

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
        self.meter.spend(actions.shape[1], actions.requires_grad)
        return self.dynamics.rollout(actions)

    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of the dynamics and its gradient, charged to the meter."""
        self.meter.spend(actions.shape[1], differentiated=True, flops_each=self.step_flops)
        return self.dynamics.step(latents, actions, loss, *loss_inputs)


def list_episodes(name: str, value: float | Sequence[float], batch: int) -> list[float]:
    """One number for each of `batch` episodes, from a number for all or a sequence of one each.

    Raises:
        UserError: the sequence, called `name`, has another length, or a number is negative or not finite.
    """
    numbers = [float(value)] * batch if isinstance(value, int | float) else [float(each) for each in value]
    if len(numbers) != batch:
        raise UserError(f"{name} must be a number, or one for each of {batch} episodes, got {len(numbers)}")
    if not all(0 <= number < float("inf") for number in numbers):
        raise UserError(f"{name} must be finite and at least 0, got {value}")
    return numbers
