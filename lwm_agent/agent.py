"""The agent: receding-horizon planning with a world model, behind Stable-Baselines3's `predict`."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Checkpoint
from .device import fast_bf16, keep_freed_memory, resolve_device
from .planners import Budget, make_cost, make_planner, plan
from .protocols import Belief, Objective, Planner, Problem

Observation = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Decision:
    """What one planning call decided for one episode, and what it took.

    Attributes:
        cost: planning cost of the chosen plan.
        trace: best cost after each iteration.
        rollouts: candidate rollouts spent on this episode; one with a gradient counts twice.
        flops: floating-point operations spent on this episode.
        seconds: wall time of the whole planning call, encoding excluded.
        batch: episodes planned in that call.
    """

    cost: float
    trace: tuple[float, ...]
    rollouts: int
    flops: float
    seconds: float
    batch: int


@dataclass(frozen=True)
class Row:
    """What the agent remembers of one episode. Tensors have a batch axis of 1."""

    seed: int
    goal: Tensor  # (1, *Z)
    belief: Belief | None = None
    block: Tensor | None = None  # (1, F*A): the action block under way
    queue: tuple[NDArray[np.float32], ...] = ()  # env_actions of that block still to be taken
    plan: Tensor | None = None  # (1, T, F*A): blocks planned after it
    committed: int = 0  # of these, how many are taken before planning again
    elapsed_env_steps: int = 0
    num_plans: int = 0

    @property
    def frames(self) -> int:
        """H, frames remembered so far."""
        return 0 if self.belief is None else self.belief.latents.shape[1]


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


class Agent:
    """Plans with a world model and acts through `predict`, Stable-Baselines3's own signature.

    All memory is in the `AgentState` that `predict` takes and returns, so one agent serves any number of environments.

    Args:
        checkpoint: the world model and its units.
        planner: a planner, or the name of one in `PLANNERS`.
        cost: name in `COSTS`: how the distances along a rollout become one cost.
        horizon: T, blocks that a plan looks ahead.
        replan_every: blocks taken before planning again.
        deadline_env_steps: length of an episode, if it is known: plans then never look beyond it.
        budget: the most that one plan may spend; None leaves it to the planner's own number of iterations.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
        bf16: imagine rollouts in bfloat16; None does so where it is faster.
        max_rollouts: candidate rollouts that are imagined at once, which bounds memory.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        planner: Planner | str = "cem",
        *,
        cost: str = "best-step",
        horizon: int = 5,
        replan_every: int = 2,
        deadline_env_steps: int | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        device: str = "auto",
        bf16: bool | None = None,
        max_rollouts: int = 2048,
    ) -> None:
        if not 1 <= replan_every <= horizon:
            raise ValueError(f"replan_every={replan_every} must be between 1 and horizon={horizon}")
        if deadline_env_steps is not None and deadline_env_steps < 1:
            raise ValueError(f"deadline_env_steps={deadline_env_steps} must be positive, or None for no deadline")
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.checkpoint = checkpoint
        model: Any = checkpoint.model.to(self.device)
        self.model = model
        self.normalizer = checkpoint.normalizer
        self.planner = make_planner(planner) if isinstance(planner, str) else planner
        self.cost_name, self.cost = cost, make_cost(cost)
        self.horizon, self.replan_every, self.deadline_env_steps = horizon, replan_every, deadline_env_steps
        self.budget = budget or Budget()
        self.seed = seed
        self.bf16 = fast_bf16(self.device) if bf16 is None else bf16
        self.max_rollouts = max_rollouts
        self.frameskip: int = self.model.frameskip
        self._low, self._high = self.normalizer.bounds(self.frameskip, self.device)
        self._calls = 0

    @classmethod
    def load(cls, path_or_name: Path | str, planner: Planner | str = "cem", **settings: Any) -> Agent:
        """Agent with the checkpoint in a folder, or with one of the package's own, such as ``pusht-tiny``.

        Needs no data set. `settings` are those of the constructor.
        """
        return cls(Checkpoint.load(path_or_name), planner, **settings)

    def settings(self) -> dict[str, Any]:
        """What decides the agent's actions beside checkpoint, planner and budget, in JSON types."""
        return {
            "cost": self.cost_name,
            "horizon": self.horizon,
            "replan_every": self.replan_every,
            "deadline_env_steps": self.deadline_env_steps,
            "bf16": self.bf16,
            "device": self.device.type,
        }

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: NDArray[np.bool_] | Sequence[bool] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.float32], AgentState]:
        """Environment actions for one observation ``(h, w, C)`` or a batch ``(B, h, w, C)``, and the next state.

        An episode's actions depend on its own observations and the agent's seed, not on what else is in the batch.

        Args:
            observation: ``{"pixels", "goal"}`` in uint8.
            state: what the last call returned; None starts new episodes.
            episode_start: ``(B,)``, where an episode begins: its memory is cleared, the others keep theirs.
            deterministic: False draws fresh random numbers at each episode start.
        """
        pixels, goal, single = self._batch(observation)
        starts = _episode_starts(len(pixels), state, episode_start)
        rows: list[Any] = list(state.rows) if state is not None else [None] * len(pixels)
        self._begin(rows, np.flatnonzero(starts), pixels, goal, deterministic)
        decisions: list[Decision | None] = [None] * len(rows)
        due = [i for i, row in enumerate(rows) if not row.queue]
        for group in _groups(due, lambda i: rows[i].frames):
            self._see(rows, group, pixels)
        to_plan = [i for i in due if rows[i].committed == 0]
        for group in _groups(to_plan, lambda i: (rows[i].frames, self._horizon(rows[i]))):
            self._plan(rows, group, decisions)
        for i in due:
            rows[i] = self._next_block(rows[i])
        actions = np.stack([row.queue[0] for row in rows])
        rows = [replace(row, queue=row.queue[1:], elapsed_env_steps=row.elapsed_env_steps + 1) for row in rows]
        return actions[0] if single else actions, AgentState(tuple(rows), tuple(decisions))

    def _batch(self, observation: Observation) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
        """Pixels and goals ``(B, h, w, C)``, and whether there was one without a batch axis."""
        if not isinstance(observation, dict) or not {"pixels", "goal"} <= observation.keys():
            raise ValueError("the agent needs observations {'pixels': ..., 'goal': ...}, as lwm/PushT-v0 gives them")
        pixels, goal = np.asarray(observation["pixels"]), np.asarray(observation["goal"])
        size = self.model.image_size
        if pixels.shape != goal.shape or pixels.ndim not in (3, 4) or pixels.shape[-3:-1] != (size, size):
            raise ValueError(
                f"pixels {pixels.shape} and goal {goal.shape} must both be ([B,] {size}, {size}, 3): this model sees "
                f"{size}-px frames (gymnasium.make(..., image_size={size}))"
            )
        single = pixels.ndim == 3
        return (pixels[None], goal[None], True) if single else (pixels, goal, False)

    def _begin(
        self,
        rows: list[Any],
        starts: NDArray[np.intp],
        pixels: NDArray[np.uint8],
        goal: NDArray[np.uint8],
        deterministic: bool,
    ) -> None:
        """Fresh rows where an episode starts; the goal is encoded once an episode."""
        if len(starts) == 0:
            return
        goals = self._encode(goal[starts]).latent
        for i, latent in zip(starts, goals.split(1), strict=True):
            # Seeded by what the episode looks like: neither its place in the batch nor its neighbours matter.
            seed = zlib.crc32(goal[i].tobytes(), zlib.crc32(pixels[i].tobytes(), self.seed))
            if not deterministic:
                self._calls += 1
                seed = zlib.crc32(self._calls.to_bytes(8, "little"), seed)
            rows[i] = Row(seed=seed, goal=latent)

    def _see(self, rows: list[Row], group: list[int], pixels: NDArray[np.uint8]) -> None:
        """Adds the newest frame to the beliefs of `group`, which remember equally many frames."""
        blocks, beliefs = [rows[i].block for i in group], [rows[i].belief for i in group]
        if beliefs[0] is None:
            belief = self._encode(pixels[group])
        else:
            belief = self._encode(pixels[group], torch.cat(blocks), _concatenate(beliefs))  # type: ignore[arg-type]
        for place, i in enumerate(group):
            rows[i] = replace(rows[i], belief=_slice(belief, place, place + 1))

    def _encode(self, pixels: NDArray[np.uint8], block: Tensor | None = None, belief: Belief | None = None) -> Belief:
        with torch.no_grad(), self._autocast():
            encoded: Belief = self.model.encode(self.normalizer.pixels(pixels, self.device), block, belief)
        return encoded

    def _horizon(self, row: Row) -> int:
        """Blocks to look ahead: never beyond the deadline, where nothing that happens counts any more."""
        if self.deadline_env_steps is None:
            return self.horizon
        left = math.ceil((self.deadline_env_steps - row.elapsed_env_steps) / self.frameskip)
        return min(self.horizon, max(1, left))

    def _plan(self, rows: list[Row], group: list[int], decisions: list[Decision | None]) -> None:
        """Plans for the episodes of `group` in one call; they share horizon and length of history."""
        belief = _concatenate([rows[i].belief for i in group])  # type: ignore[misc]
        goal = torch.cat([rows[i].goal for i in group])
        horizon = self._horizon(rows[group[0]])
        init = torch.cat([self._warm_start(rows[i], horizon) for i in group])
        problem = Problem(
            objective=self._objective(belief, goal),
            init=init,
            scale=torch.ones_like(init),
            low=self._low,
            high=self._high,
            generators=[self._generator(rows[i]) for i in group],
            action_size=self.normalizer.action_size,
        )
        flops = self.model.rollout_flops(horizon, belief.latents.shape[1])
        result = plan(self.planner, problem, self.budget, flops)
        costs, traces = result.cost.tolist(), result.trace.T.tolist()
        for place, i in enumerate(group):
            decisions[i] = Decision(
                costs[place], tuple(traces[place]), result.rollouts, result.flops, result.seconds, len(group)
            )
            rows[i] = replace(
                rows[i],
                plan=result.actions[place : place + 1],
                committed=min(self.replan_every, horizon),
                num_plans=rows[i].num_plans + 1,
            )

    def _warm_start(self, row: Row, horizon: int) -> Tensor:
        """What is left of the last plan, then the mean action, ``(1, T, F*A)``."""
        init = torch.zeros(1, horizon, len(self._low), device=self.device)
        if row.plan is not None:
            left = row.plan[:, :horizon]
            init[:, : left.shape[1]] = left
        return init

    def _generator(self, row: Row) -> torch.Generator:
        seed = zlib.crc32(row.num_plans.to_bytes(8, "little"), row.seed)
        return torch.Generator(self.device).manual_seed(seed)

    def _objective(self, belief: Belief, goal: Tensor) -> Objective:
        """Planning cost of candidates ``(B, S, T, F*A)``, imagined in chunks of whole episodes."""

        def objective(actions: Tensor) -> Tensor:
            chunk = max(1, self.max_rollouts // actions.shape[1])
            costs = []
            for first in range(0, len(actions), chunk):
                part = slice(first, first + chunk)
                with self._autocast():
                    latents = self.model.rollout(_slice(belief, part.start, part.stop), actions[part])
                costs.append(self.cost(self.model.distance(latents, goal[part])))
            return torch.cat(costs)

        return objective

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _next_block(self, row: Row) -> Row:
        """Moves the first planned block into the queue of environment actions."""
        assert row.plan is not None
        block = row.plan[:, 0]
        env_actions = self.normalizer.env_actions(block)[0]  # (F, A)
        return replace(row, block=block, queue=tuple(env_actions), plan=row.plan[:, 1:], committed=row.committed - 1)


def _episode_starts(
    num: int, state: AgentState | None, episode_start: NDArray[np.bool_] | Sequence[bool] | None
) -> NDArray[np.bool_]:
    """Where an episode starts: everywhere without a state, nowhere if `episode_start` is not given."""
    if state is None:
        return np.ones(num, bool)
    starts = np.zeros(num, bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
    if len(state) != num or starts.shape != (num,):
        raise ValueError(
            f"{num} observations do not fit a state of {len(state)} and an episode_start of {starts.shape}"
        )
    return starts


def _groups(indices: Iterable[int], key: Callable[[int], Any]) -> list[list[int]]:
    """`indices` in groups of equal key, so that each group has one tensor shape."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index in indices:
        groups[key(index)].append(index)
    return list(groups.values())


def _concatenate(beliefs: Sequence[Belief]) -> Belief:
    return Belief(*(torch.cat(parts) for parts in zip(*beliefs, strict=True)))


def _slice(belief: Belief, start: int, stop: int) -> Belief:
    return Belief(*(part[start:stop] for part in belief))
