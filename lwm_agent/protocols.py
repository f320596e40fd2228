"""What the parts of lwm-agent say to each other. This module imports nothing of the package.

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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

DEFAULT_COST = "best-step"
"""Planning cost, as in `lwm_agent.planners.COSTS`, where nobody asks for another."""

Objective = Callable[[Tensor], Tensor]
"""Candidates ``(B, S, T, F*A)`` to costs ``(B, S)``, lower is better, differentiable."""


class Belief(NamedTuple):
    """What a world model remembers of an episode: its last H frames and the action blocks between them."""

    latents: Tensor  # (B, H, *Z), oldest first
    actions: Tensor  # (B, H - 1, F*A), normalised

    @property
    def latent(self) -> Tensor:
        """Latent of the newest frame, ``(B, *Z)``."""
        return self.latents[:, -1]


class Batch(NamedTuple):
    """Training clips, every F-th frame of a trajectory."""

    pixels: Tensor  # (B, L, C, h, w), normalised
    actions: Tensor  # (B, L - 1, F*A), normalised
    state: Tensor | None = None  # (B, L, state size): privileged, for monitors and probes only


class Dynamics(Protocol):
    """A world model with its own latents in the open, for planners that treat latents as variables beside actions."""

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

    def step(self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *of: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``(B, S, T, *Z)`` one block after `latents` ``(B, S, T, *Z)``, each by its own block of `actions`.

        The T steps do not follow each other: they are independent, and taken in parallel. Also returns the gradient, in
        `actions`, of ``loss(reached, *of)``, a scalar that adds up over candidates: it may be called several times,
        each with some of the episodes and candidates of `reached` and of every tensor in `of` ``(B, S, ...)``. Both
        results are detached.
        """
        ...


@dataclass(frozen=True)
class Problem:
    """One planning problem for B episodes.

    Attributes:
        objective: what to minimise.
        init: first guess ``(B, T, F*A)``: zeros, or the shifted last plan.
        scale: standard deviation of the first candidates around `init`, ``(B, T, F*A)``.
        low: lower bound of an action block, ``(F*A,)``.
        high: upper bound of an action block, ``(F*A,)``.
        generators: one random generator an episode, so that its plan does not depend on its batch.
        action_size: A, from which planners know the order of environment steps inside a block.
        dynamics: the model behind the objective, for the planners that need it; None where there is none.
        step_flops: floating-point operations of T steps of a candidate that do not follow each other; None if they are
            those of a rollout.
        propose: imagines P first guesses ``(B, P, T, F*A)`` inside the bounds, learned ones and `init`, and tells
            their costs ``(B, P)``; the best replaces `init`.
        propose_flops: floating-point operations of `propose` for each episode, beyond those of P rollouts.
    """

    objective: Objective
    init: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    generators: Sequence[torch.Generator]
    action_size: int
    dynamics: Dynamics | None = None
    step_flops: float | None = None
    propose: Callable[[], tuple[Tensor, Tensor]] | None = None
    propose_flops: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The best action sequence found for each of B episodes, and what it took to find it.

    Attributes:
        actions: ``(B, T, F*A)``, inside the bounds.
        cost: objective of `actions`, ``(B,)``.
        trace: best cost after each iteration, ``(iterations, B)``, never increasing.
        rollouts: candidate rollouts spent for each episode; one with a gradient counts twice.
        flops: floating-point operations spent for each episode.
        seconds: wall time of the whole call.
        overshoot: of these, how many are beyond the budget's.
    """

    actions: Tensor
    cost: Tensor
    trace: Tensor
    rollouts: int
    flops: float
    seconds: float
    overshoot: float


class WorldModel(Protocol):
    """Encodes frames, imagines futures, measures distances. Knows no planner and no environment."""

    frameskip: int
    history: int
    action_size: int
    image_size: int

    def encode(self, pixels: Tensor) -> Belief:
        """Belief of episodes that begin with `pixels` ``(B, C, h, w)``."""
        ...

    def advance(self, belief: Belief, action: Tensor) -> Belief:
        """Belief after imagining the block `action` ``(B, F*A)``."""
        ...

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``; differentiable in `actions`."""
        ...

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Distance ``(B, S, T)`` of `latents` ``(B, S, T, *Z)`` to `goal` ``(B, *Z)``."""
        ...

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Training losses of a batch, drawn with `generator` (on the CPU); the one to minimise is called ``loss``."""
        ...

    def advance_flops(self, context: int) -> float:
        """Floating-point operations of `advance` for one episode that remembers `context` frames."""
        ...

    def rollout_flops(self, horizon: int, context: int) -> float:
        """Floating-point operations of one candidate over `horizon` blocks from `context` remembered frames."""
        ...


class Planner(Protocol):
    """Minimises a function of action sequences. Knows no model and no environment."""

    @property
    def iterations(self) -> int:
        """Of one plan, where no budget limits it."""
        ...

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, for as long as it is asked or can be of use, a plan ``(B, T, F*A)`` and its cost ``(B,)``."""
        ...


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
