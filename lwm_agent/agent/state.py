"""The memory of an agent between two calls of `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..models.base import concatenate, select
from ..protocols import Belief


@dataclass(frozen=True)
class Candidates:
    """Candidate plans of one episode that a search looked at together.

    Attributes:
        actions: normalised, ``(S, T, F*A)``.
        costs: ``(S,)``.
    """

    actions: Tensor
    costs: Tensor


@dataclass(frozen=True)
class Decision:
    """The outcome of one planning call for one episode, and its price.

    Attributes:
        cost: planning cost of the chosen plan.
        trace: best cost after each iteration.
        rollouts: candidate rollouts spent on this episode; one with a gradient counts twice.
        flops: floating-point operations spent on this episode.
        seconds: wall time of the whole planning call, encoding excluded.
        overshoot: seconds of these beyond the budget's.
        batch: episodes planned in that call.
        imagined: latents ``(T, *Z)`` after each block of the plan, of agents that keep them.
        search: candidates of each call of the objective, the proposals first, of agents that keep what is imagined.
    """

    cost: float
    trace: tuple[float, ...]
    rollouts: int
    flops: float
    seconds: float
    overshoot: float
    batch: int
    imagined: Tensor | None = None
    search: tuple[Candidates, ...] = ()


@dataclass(frozen=True)
class AgentState:
    """State of the agent for B episodes, which may be of different ages; ``state[rows]`` keeps some of them.

    Attributes:
        seeds: of the random choices in each episode, ``(B,)``.
        ages: environment steps since each episode began, ``(B,)``.
        num_plans: plans made in each episode, ``(B,)``.
        steps_until_replan: environment steps to execute before planning again, ``(B,)``.
        goal_pixels: picture of the goal, ``(B, h, w, C)``.
        goal: its latent, ``(B, *Z)``.
        beliefs: ``(B, P, ...)``: one belief for each of the P phases of a block at which plans begin.
        executed_actions: normalised actions of the newest F environment steps, ``(B, F, A)``, oldest first.
        plan: normalised actions that are planned, ``(B, T*F, A)``, the next one first; zeros where none is.
        decisions: of the last call, None for episodes that it did not plan for.
        surprise: errors of the predictions that the newest observed frames judged, ``(B,)``, in units of the error that
            is usual on validation data. NaN until there is one, and always of agents that do not keep it.
    """

    seeds: NDArray[np.int64]
    ages: NDArray[np.int64]
    num_plans: NDArray[np.int64]
    steps_until_replan: NDArray[np.int64]
    goal_pixels: NDArray[np.uint8]
    goal: Tensor
    beliefs: Belief
    executed_actions: Tensor
    plan: Tensor
    decisions: tuple[Decision | None, ...]
    surprise: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> AgentState:
        index = np.arange(len(self))[np.atleast_1d(np.asarray(rows))]
        places = torch.from_numpy(index).to(self.plan.device)
        return AgentState(
            seeds=self.seeds[index],
            ages=self.ages[index],
            num_plans=self.num_plans[index],
            steps_until_replan=self.steps_until_replan[index],
            goal_pixels=self.goal_pixels[index],
            goal=self.goal[places],
            beliefs=select(self.beliefs, places),
            executed_actions=self.executed_actions[places],
            plan=self.plan[places],
            decisions=tuple(self.decisions[row] for row in index),
            surprise=self.surprise[index],
        )

    def with_rows(self, rows: NDArray[np.intp], other: AgentState) -> AgentState:
        """This state with `rows` ``(n,)`` replaced by those of `other`."""
        order = np.arange(len(self))
        order[rows] = len(self) + np.arange(len(rows))
        return join(self, other)[order]


def join(first: AgentState, second: AgentState) -> AgentState:
    """The episodes of both states, one after the other."""
    return AgentState(
        seeds=np.concatenate([first.seeds, second.seeds]),
        ages=np.concatenate([first.ages, second.ages]),
        num_plans=np.concatenate([first.num_plans, second.num_plans]),
        steps_until_replan=np.concatenate([first.steps_until_replan, second.steps_until_replan]),
        goal_pixels=np.concatenate([first.goal_pixels, second.goal_pixels]),
        goal=torch.cat([first.goal, second.goal]),
        beliefs=concatenate([first.beliefs, second.beliefs]),
        executed_actions=torch.cat([first.executed_actions, second.executed_actions]),
        plan=torch.cat([first.plan, second.plan]),
        decisions=first.decisions + second.decisions,
        surprise=np.concatenate([first.surprise, second.surprise]),
    )


def episode_starts(
    num: int, state: AgentState | None, episode_start: NDArray[np.bool_] | Sequence[bool] | None
) -> NDArray[np.bool_]:
    """Episodes that start, ``(num,)``: all of them without a state, none if `episode_start` is not given.

    Raises:
        UserError: `state` or `episode_start` is of another number of episodes.
    """
    if state is None:
        return np.ones(num, bool)
    starts = np.zeros(num, bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
    if len(state) != num or starts.shape != (num,):
        raise UserError(f"{num} observations do not fit a state of {len(state)} and an episode_start of {starts.shape}")
    return starts
