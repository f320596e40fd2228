"""The interfaces between the parts of lwm-agent. This module imports nothing of the package.

Axis letters, used by every shape in the package:

====  =================================================  =====  ==========================================
B     episodes planned together, or clips in a batch     A      action size of the environment
S     candidate action sequences of an episode           F      frameskip: environment steps a model step
T     planning horizon, in model steps                   F*A    one action block: what the model consumes
L     length of a training clip, in frames               *Z     latent axes of a model: (D,) or (N, D)
H     frames that a belief remembers                     C h w  an image in torch; h w C in NumPy
====  =================================================  =====  ==========================================

Order is always batch, sample, time, feature: actions ``(B, S, T, F*A)``, latents ``(B, S, T, *Z)``, costs ``(B, S)``.
``action[t]`` is the block that leaves ``frame[t]``::

    frame[0] --action[0]--> frame[1] --action[1]--> frame[2]

Actions are normalised (zero mean, unit variance over the training data) everywhere inside planners and models; those in
the environment's own units are called ``env_action``, and durations in environment steps end in ``_env_steps``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

DEFAULT_COST = "best-step"
"""Planning cost, as in `lwm_agent.planners.COSTS`, where nobody asks for another."""

PARTS = ("predictor", "heads", "encoder")
"""Parts of a model that are trained by themselves; the record of a training has one of each, by its name."""

Objective = Callable[[Tensor], Tensor]
"""Candidates ``(B, S, T, F*A)`` to costs ``(B, S)``, lower is better, differentiable."""


class Belief(Protocol):
    """All that a world model remembers of B episodes: a NamedTuple of batch-first tensors, opaque but for `latent`."""

    @property
    def latent(self) -> Tensor:
        """Latent of the present, ``(B, *Z)``."""
        ...

    def __iter__(self) -> Iterator[Tensor]: ...


class Batch(NamedTuple):
    """Training clips, every F-th frame of a trajectory."""

    pixels: Tensor  # (B, L, C, h, w), normalised
    actions: Tensor  # (B, L - 1, F*A), normalised
    state: Tensor | None = None  # (B, L, state size): privileged, for monitors and probes only
    goal: Tensor | None = None  # (B, C, h, w): a later frame of the clip's trajectory, or another's
    goal_steps: Tensor | None = (
        None  # (B,): environment steps from the clip's first frame to the goal; inf if another's
    )
    reward: Tensor | None = None  # (B, L - 1): sum over each block, where the data have rewards


class GoalPolicy(Protocol):
    """A learned goal-conditioned policy on latents."""

    @property
    def actor_flops(self) -> float:
        """Floating-point operations of one action."""
        ...

    @property
    def distance_flops(self) -> float:
        """Floating-point operations of the time to one goal."""
        ...

    def act(self, latent: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(..., F*A)`` of the next block from `latent` to `goal` ``(..., D)``.

        `goal` may have fewer rows, where they broadcast. `steps` ``(...)`` are the model steps left; a policy without a
        sense of time does not look at them.
        """
        ...

    def steps_to_go(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Model steps ``(N,)``, whole numbers from 1, from `latent` to `goal` ``(N, D)``.

        They are infinite where the policy has no sense of time.
        """
        ...


class GoalActor(GoalPolicy, Protocol):
    """A policy with a sense of time, from which planning costs are made too."""

    def log_steps(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Logarithm of the model steps ``(B, S, T)`` from `latents` ``(B, S, T, D)`` to `goal` ``(B, D)``."""
        ...

    @property
    def contrast_flops(self) -> float:
        """Floating-point operations of the contrast of one latent; 0 where none was learned."""
        ...

    def contrasts(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Certainty ``(B, S, T)``, in nats, that `latents` ``(B, S, T, D)`` are another place than `goal` ``(B, D)``.

        It is 0 around the goal.

        Raises:
            UserError: nothing was learned that tells.
        """
        ...

    def deviations(self, latents: Tensor, goal: Tensor, steps: Tensor, blocks: Tensor) -> Tensor:
        """Mean squared distance ``(B, S, T)`` of `blocks` ``(B, S, T, F*A)`` from the actor's, in its deviations.

        The blocks leave `latents` ``(B, S, T, D)``, for `goal` ``(B, D)``, with `steps` ``(B, S, T)`` to go.
        """
        ...


class Dynamics(Protocol):
    """Rollouts and single steps of a world model, for planners that treat latents as variables beside actions."""

    @property
    def start(self) -> Tensor:
        """Latent of the present, ``(B, *Z)``."""
        ...

    @property
    def goal(self) -> Tensor:
        """Latent of the goal, ``(B, *Z)``."""
        ...

    def rollout(self, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``, taken in order from `start`."""
        ...

    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents ``(B, S, T, *Z)`` one block after `latents` ``(B, S, T, *Z)``, each by its own block of `actions`.

        The T steps do not follow each other: they are independent, and taken in parallel. Also returns the gradient, in
        `actions`, of ``loss(reached, *loss_inputs)``, a scalar that adds up over candidates. It may be called several
        times, each with some of the episodes and candidates of `reached` and of all `loss_inputs` ``(B, S, ...)``. Both
        results are detached.
        """
        ...


class Spending(Protocol):
    """Budgets of the B episodes of a problem, of which some may be exhausted before others."""

    @property
    def exhausted(self) -> Sequence[bool]:
        """True for episodes that may not spend any more: their candidates cost infinity and need no random numbers."""
        ...

    def reopen(self) -> None:
        """Lets the episodes that could not pay the last call of the objective try others, which may be cheaper."""
        ...


@dataclass(frozen=True)
class Problem:
    """One planning problem for B episodes.

    Attributes:
        objective: function to minimise.
        init: first guess ``(B, T, F*A)``: zeros, or the shifted last plan.
        scale: standard deviation of the first candidates around `init`, ``(B, T, F*A)``.
        low: lower bound of an action block, ``(F*A,)``.
        high: upper bound of an action block, ``(F*A,)``.
        generators: one random generator an episode, so that its plan does not depend on its batch.
        action_size: A; a block is F actions of this size, in the order of environment steps.
        dynamics: the model behind the objective, for the planners that need it; None where there is none.
        step_flops: floating-point operations of T steps of a candidate that do not follow each other, of all episodes
            or one number for each; None if they are those of a rollout.
        propose: returns P proposals ``(B, P, T, F*A)`` inside the bounds, learned ones and `init`, and their costs
            ``(B, P)``; the best replaces `init`.
        propose_flops: floating-point operations of `propose`, beyond those of P rollouts, of all episodes or one number
            for each.
        horizons: number of blocks of each episode's plan, from 1 to T; None if it is T for all. The blocks after an
            episode's horizon are padding: they are zero in every candidate and in the plan (of discrete actions, they
            take action 0), and the objective must not depend on them.
        spending: budgets of the episodes; set by `plan`.
        init_cost: cost of `init`, ``(B,)``, where it is the best proposal; set by `plan`.
        proposals: the other proposals, ``(B, P - 1, T, F*A)``, best first; None where there is none. Set by `plan`.
        proposal_costs: their costs, ``(B, P - 1)``; infinite for those that are equal to `init` or to a better one.
    """

    objective: Objective
    init: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    generators: Sequence[torch.Generator]
    action_size: int
    dynamics: Dynamics | None = None
    step_flops: float | Sequence[float] | None = None
    propose: Callable[[], tuple[Tensor, Tensor]] | None = None
    propose_flops: float | Sequence[float] = 0.0
    horizons: tuple[int, ...] | None = None
    spending: Spending | None = None
    init_cost: Tensor | None = None
    proposals: Tensor | None = None
    proposal_costs: Tensor | None = None

    @cached_property
    def valid(self) -> Tensor | None:
        """Mask ``(B, T)`` of the blocks that belong to their episode's plan; None if all do."""
        if self.horizons is None:
            return None
        blocks = torch.arange(self.init.shape[1], device=self.init.device)
        return blocks < torch.tensor(self.horizons, device=self.init.device)[:, None]

    @cached_property
    def equal_horizons(self) -> dict[int, Tensor]:
        """Indices of the episodes of each horizon, by horizon; empty if `horizons` is None."""
        horizons = self.horizons or ()
        return {
            horizon: torch.tensor([i for i, own in enumerate(horizons) if own == horizon], device=self.init.device)
            for horizon in sorted(set(horizons))
        }


@dataclass(frozen=True)
class Plan:
    """The best action sequence found for each of B episodes, and the compute that was spent on it.

    Attributes:
        actions: ``(B, T, F*A)``, inside the bounds.
        cost: objective of `actions`, ``(B,)``.
        trace: best cost after each iteration, ``(iterations, B)``, never increasing.
        rollouts: candidate rollouts spent for each of the B episodes; one with a gradient counts twice.
        flops: floating-point operations spent for each of them.
        seconds: wall time of the whole call.
        overshoot: seconds beyond the budget's.
    """

    actions: Tensor
    cost: Tensor
    trace: Tensor
    rollouts: tuple[int, ...]
    flops: tuple[float, ...]
    seconds: float
    overshoot: float


class Planner(ABC):
    """Minimises a function of action sequences. Knows no model and no environment.

    A planner is a frozen dataclass, whose fields are its settings.

    Attributes:
        iterations: iterations of a plan that no budget limits.
        needs_proposal: whether it is of use with a learned proposal only.
        discrete: whether it plans one-hot actions, and no others.
        follows_gradients: whether its candidates take gradients, so that each counts as two rollouts.
        reactive: whether a learned policy acts in its place: no future is imagined.
    """

    iterations: int
    needs_proposal: bool = False
    discrete: bool = False
    follows_gradients: bool = False
    reactive: bool = False

    @abstractmethod
    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields a plan ``(B, T, F*A)`` and its cost ``(B,)`` after each iteration; ends only where no other can help.

        Calls of the problem's objective and dynamics raise an exception when the budget is spent: let it pass.
        """


class Policy(Protocol):
    """Stable-Baselines3's `predict`, all that evaluation asks of an agent."""

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Environment actions for a batch of observations, and the state to hand to the next call."""
        ...
