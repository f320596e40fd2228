"""What an agent remembers between two calls of `predict`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..protocols import Belief


@dataclass(frozen=True)
class Decision:
    """What one planning call decided for one episode, and what it took.

    Attributes:
        cost: planning cost of the chosen plan.
        trace: best cost after each iteration.
        rollouts: candidate rollouts spent on this episode; one with a gradient counts twice.
        flops: floating-point operations spent on this episode.
        seconds: wall time of the whole planning call, encoding excluded.
        overshoot: of these, how many are beyond the budget's.
        batch: episodes planned in that call.
    """

    cost: float
    trace: tuple[float, ...]
    rollouts: int
    flops: float
    seconds: float
    overshoot: float
    batch: int


@dataclass(frozen=True)
class Row:
    """What the agent remembers of one episode. Tensors have a batch axis of 1."""

    seed: int
    goal: Tensor  # (1, *Z)
    latents: Tensor  # (1, n, *Z): of the newest frames looked at, oldest first
    taken: Tensor  # (1, m, A): normalised actions of the newest environment steps, oldest first
    plan: Tensor  # (1, k, A): those still planned, the next one first
    committed: int = 0  # of these, how many are taken before planning again
    elapsed_env_steps: int = 0
    num_plans: int = 0

    def belief(self, frameskip: int, look_every: int) -> Belief:
        """The frames that a model step lies between, if one was looked at every `look_every` environment steps."""
        every = frameskip // look_every
        latents = self.latents[:, (self.latents.shape[1] - 1) % every :: every]
        steps = latents.shape[1] - 1
        taken = self.taken[:, self.taken.shape[1] - steps * frameskip :]
        return Belief(latents, taken.unflatten(1, (steps, frameskip)).flatten(2))


@dataclass(frozen=True)
class AgentState:
    """State of the agent for a batch of environments; ``state[indices]`` keeps some of them."""

    rows: tuple[Row, ...]
    decisions: tuple[Decision | None, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Iterable[int]) -> AgentState:
        indices = list(indices)
        return AgentState(tuple(self.rows[i] for i in indices), tuple(self.decisions[i] for i in indices))


def episode_starts(
    num: int, state: AgentState | None, episode_start: NDArray[np.bool_] | Sequence[bool] | None
) -> NDArray[np.bool_]:
    """Where an episode starts: everywhere without a state, nowhere if `episode_start` is not given."""
    if state is None:
        return np.ones(num, bool)
    starts = np.zeros(num, bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
    if len(state) != num or starts.shape != (num,):
        raise UserError(f"{num} observations do not fit a state of {len(state)} and an episode_start of {starts.shape}")
    return starts


def groups(indices: Iterable[int], key: Callable[[int], Any]) -> list[list[int]]:
    """`indices` in groups of equal key, so that each group has one tensor shape."""
    by_key: dict[Any, list[int]] = defaultdict(list)
    for index in indices:
        by_key[key(index)].append(index)
    return list(by_key.values())


def concatenate(beliefs: Sequence[Belief]) -> Belief:
    """One belief of all the episodes in `beliefs`, which remember equally many frames."""
    return Belief(*(torch.cat(parts) for parts in zip(*beliefs, strict=True)))


def select(belief: Belief, episodes: slice) -> Belief:
    """Some of the episodes of `belief`."""
    return Belief(*(part[episodes] for part in belief))
