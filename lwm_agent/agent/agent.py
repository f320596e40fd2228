"""The agent: receding-horizon planning with a world model, behind Stable-Baselines3's `predict`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..compute.device import arrange_weights, autocast, compile_methods, fast_bf16, keep_freed_memory, resolve_device
from ..compute.int8 import to_int8
from ..errors import UserError
from ..models import Heads
from ..planners import UNLIMITED, Budget, make_cost, make_planner, plan
from ..protocols import Belief, Planner, Problem
from .chunking import rollouts_at_once
from .objective import Imagination
from .proposal import make_proposal
from .state import AgentState, Decision, Row, concatenate, episode_starts, groups

Observation = dict[str, NDArray[np.uint8]]


def default_planner(checkpoint: Checkpoint, proposal: str = "auto") -> str:
    """Name of the planner to use unless there is a reason for another: CEM, a small one if there is an actor.

    That is "guided": in the README's results for goals 25 steps ahead, nothing is measurably better, at a third of the
    compute of "cem".
    """
    if checkpoint.normalizer.discrete:
        return "categorical-cem"
    return "cem" if checkpoint.heads is None or proposal == "none" else "guided"


class Agent:
    """Plans with a world model and acts through `predict`, Stable-Baselines3's own signature.

    All memory of an episode is in the `AgentState` that `predict` takes and returns, so one agent serves any number of
    environments.

    Args:
        checkpoint: the world model and its units.
        planner: a planner, or the name of one in `PLANNERS`; None takes the `default_planner`.
        cost: how bad an imagined future is: a name in `COSTS`, or a weighted sum (`make_cost`); None takes what the
            checkpoint recommends.
        proposal: what a plan starts from: "actor", what the checkpoint's actor would do; "none", what is left of the
            last plan; "auto", the actor if there is one.
        num_proposals: P, futures that the actor imagines, the first from its mean actions, the others from random ones.
        proposal_std: standard deviation of the first candidates around the best proposal, normalised.
        horizon: T, blocks that a plan looks ahead.
        replan_every_env_steps: environment steps taken before planning again; None is a block, the model's own step.
            The last block before the deadline is taken whole.
        deadline_env_steps: length of an episode, if it is known: plans then end with the block that reaches it.
        budget: what one plan may spend; None leaves it to the planner's own number of iterations.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
        bf16: imagine rollouts in bfloat16; None does so where it is faster.
        int8: imagine rollouts in 8-bit integers, for CPUs with VNNI on which bfloat16 is no faster than float32; what
            planners follow gradients through stays float32. It pays together with `compile`.
        compile: rollouts, proposals and what the actor would do by torch.compile, on CUDA as CUDA graphs: faster, once
            the first plan of each horizon has waited for the compiler.
        max_rollouts: rollouts that are imagined at once, of candidates or of the actor's futures, which bounds memory;
            None takes as many as half of the free memory holds, with gradients and up to 2,048 (32,768 on CUDA).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        planner: Planner | str | None = None,
        *,
        cost: str | None = None,
        proposal: str = "auto",
        num_proposals: int = 16,
        proposal_std: float = 0.5,
        horizon: int = 5,
        replan_every_env_steps: int | None = None,
        deadline_env_steps: int | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        device: str = "auto",
        bf16: bool | None = None,
        int8: bool = False,
        compile: bool = False,  # noqa: A002  (what torch calls it)
        max_rollouts: int | None = None,
    ) -> None:
        if horizon < 1:
            raise UserError(f"horizon={horizon} must be at least 1")
        if proposal_std < 0:
            raise UserError(f"proposal_std={proposal_std} must be at least 0")
        if max_rollouts is not None and max_rollouts < 1:
            raise UserError(f"max_rollouts={max_rollouts} must be at least 1, or None for as many as memory holds")
        if deadline_env_steps is not None and deadline_env_steps < 1:
            raise UserError(f"deadline_env_steps={deadline_env_steps} must be positive, or None for no deadline")
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.checkpoint = checkpoint
        self._set_precision(bf16, int8)
        self.compile = compile
        self.model, self.heads = self._networks()
        self.normalizer = checkpoint.normalizer
        planner = planner or default_planner(checkpoint, proposal)
        self.planner = make_planner(planner) if isinstance(planner, str) else planner
        self._check_actions()
        self.cost_name = cost or checkpoint.cost
        self.cost = make_cost(self.cost_name)
        if self.heads is None and (self.cost.asks_for_steps or self.cost.asks_for_actor):
            raise UserError(f"cost={self.cost_name!r} needs learned heads: train them with `lwm-agent train-heads`")
        self.horizon, self.deadline_env_steps = horizon, deadline_env_steps
        self.budget = budget or UNLIMITED
        self.seed = seed
        self.max_rollouts = max_rollouts or rollouts_at_once(checkpoint, self.cost, horizon, self.device)
        ready = replace(checkpoint, model=self.model, heads=self.heads)
        self.proposal = make_proposal(proposal, ready, num_proposals, self.bf16)
        self.proposal_std = proposal_std
        if self.proposal is None and getattr(self.planner, "needs_proposal", False):
            raise UserError(
                f"{type(self.planner).__name__} needs a learned proposal: train one with `lwm-agent train-heads`, and "
                "leave agent.proposal at 'auto'"
            )
        self.frameskip: int = self.model.frameskip
        self._set_rhythm(replan_every_env_steps)
        self._low, self._high = self.normalizer.bounds(self.frameskip, self.device)
        self._calls = 0

    @classmethod
    def load(cls, path_or_name: Path | str, planner: Planner | str | None = None, **settings: Any) -> Agent:
        """Agent with the checkpoint in a folder, or with one of the package's own, such as ``pusht-tiny``.

        Needs no data set. `settings` are those of the constructor.
        """
        return cls(Checkpoint.load(path_or_name), planner, **settings)

    def settings(self) -> dict[str, Any]:
        """What decides the agent's actions beside checkpoint, planner and budget, in JSON types."""
        return {
            "cost": self.cost_name,
            "proposal": None if self.proposal is None else "actor",
            "num_proposals": 0 if self.proposal is None else self.proposal.num_proposals,
            "proposal_std": None if self.proposal is None else self.proposal_std,
            "horizon": self.horizon,
            "replan_every_env_steps": self.replan_every_env_steps,
            "deadline_env_steps": self.deadline_env_steps,
            "bf16": self.bf16,
            "int8": self.int8,
            "compile": self.compile,
            "device": self.device.type,
        }

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: NDArray[np.bool_] | Sequence[bool] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], AgentState]:
        """Environment actions for one observation ``(h, w, C)`` or a batch ``(B, h, w, C)``, and the next state.

        They are ``([B,] A)``, or ``([B])`` indices where the action space is Discrete.

        An episode's actions depend on its own observations and the agent's seed, not on what else is in the batch.

        Args:
            observation: ``{"pixels", "goal"}`` in uint8.
            state: what the last call returned; None starts new episodes.
            episode_start: ``(B,)``, where an episode begins: its memory is cleared, the others keep theirs.
            deterministic: False draws fresh random numbers at each episode start.
        """
        pixels, goal, single = self._batch(observation)
        starts = episode_starts(len(pixels), state, episode_start)
        rows: list[Any] = list(state.rows) if state is not None else [None] * len(pixels)
        self._begin(rows, np.flatnonzero(starts), pixels, goal, deterministic)
        decisions: list[Decision | None] = [None] * len(rows)
        self._look(rows, [i for i, row in enumerate(rows) if row.elapsed_env_steps % self._look_every == 0], pixels)
        beliefs = {i: row.belief(self.frameskip, self._look_every) for i, row in enumerate(rows) if row.committed == 0}
        for group in groups(beliefs, lambda i: (beliefs[i].latents.shape[1], self._horizon(rows[i]))):
            self._plan(rows, group, concatenate([beliefs[i] for i in group]), decisions)
        actions = self.normalizer.env_actions(torch.cat([row.plan[:, 0] for row in rows]))[:, 0]
        rows = [self._take(row) for row in rows]
        return actions[0] if single else actions, AgentState(tuple(rows), tuple(decisions))

    def _set_precision(self, bf16: bool | None, int8: bool) -> None:
        self.int8 = int8
        self.bf16 = fast_bf16(self.device) and not int8 if bf16 is None else bf16
        if int8 and (self.bf16 or self.device.type != "cpu"):
            raise UserError(f"int8=True is for CPUs, without bf16: device={self.device.type!r}, bf16={self.bf16}")

    def _networks(self) -> tuple[Any, Heads | None]:
        """Copies of the checkpoint's networks, the world model and the heads that there may be, for planning."""
        model: Any = arrange_weights(self.checkpoint.model, self.device, self.bf16)
        heads = None
        if self.checkpoint.heads is not None:
            heads = arrange_weights(self.checkpoint.heads, self.device, self.bf16)
        if self.int8:
            to_int8(model.predictor, heads)
        if self.compile:
            compile_methods(self.device, (model, "rollout"), (model, "advance"))
        if self.compile and heads is not None:
            compile_methods(self.device, (heads, "deviations"), (heads.actor, "forward"))
        return model, heads

    def _set_rhythm(self, replan_every_env_steps: int | None) -> None:
        """How often to plan, and how often to look: between two blocks only if all plans begin there."""
        longest, chosen = self.horizon * self.frameskip, replan_every_env_steps
        if chosen is not None and not 1 <= chosen <= longest:
            raise UserError(f"replan_every_env_steps={chosen} must be from 1 to {longest}, the length of a plan")
        self.replan_every_env_steps = self.frameskip if chosen is None else chosen
        self._look_every = 1 if self.replan_every_env_steps % self.frameskip else self.frameskip
        self._remembered_env_steps: int = (self.model.history - 1) * self.frameskip

    def _check_actions(self) -> None:
        """Refuses a planner of continuous actions where they are discrete, and the other way round."""
        if getattr(self.planner, "discrete", False) == self.normalizer.discrete:
            return
        kind, advice = (
            ("discrete", "choose categorical-cem")
            if self.normalizer.discrete
            else ("continuous", "choose any but categorical-cem, such as cem")
        )
        raise UserError(f"{type(self.planner).__name__} cannot plan: the checkpoint's actions are {kind}; {advice}")

    def _batch(self, observation: Observation) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
        """Pixels and goals ``(B, h, w, C)``, and whether there was one without a batch axis."""
        if not isinstance(observation, dict) or not {"pixels", "goal"} <= observation.keys():
            raise UserError("the agent needs observations {'pixels': ..., 'goal': ...}, as lwm/PushT-v0 gives them")
        pixels, goal = np.asarray(observation["pixels"]), np.asarray(observation["goal"])
        size = self.model.image_size
        if pixels.shape != goal.shape or pixels.ndim not in (3, 4) or pixels.shape[-3:-1] != (size, size):
            raise UserError(
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
        goals = self.encode(goal[starts]).latent
        for i, latent in zip(starts, goals.split(1), strict=True):
            # Seeded by what the episode looks like: neither its place in the batch nor its neighbours matter.
            seed = zlib.crc32(goal[i].tobytes(), zlib.crc32(pixels[i].tobytes(), self.seed))
            if not deterministic:
                self._calls += 1
                seed = zlib.crc32(self._calls.to_bytes(8, "little"), seed)
            none = latent.new_zeros(1, 0, self.normalizer.action_size)
            rows[i] = Row(seed=seed, goal=latent, latents=latent[:, None][:, :0], taken=none, plan=none)

    def _look(self, rows: list[Row], looking: list[int], pixels: NDArray[np.uint8]) -> None:
        """Adds the newest frame to the memory of the rows that are `looking`."""
        if not looking:
            return
        most = self._remembered_env_steps // self._look_every + 1
        for i, latent in zip(looking, self.encode(pixels[looking]).latents.split(1), strict=True):
            rows[i] = replace(rows[i], latents=torch.cat([rows[i].latents, latent], dim=1)[:, -most:])

    def encode(self, pixels: NDArray[np.uint8]) -> Belief:
        """Beliefs of episodes that begin with the uint8 frames ``(B, h, w, C)``."""
        with torch.no_grad(), autocast(self.device, self.bf16):
            encoded: Belief = self.model.encode(self.normalizer.pixels(pixels, self.device))
        return encoded

    def _blocks_left(self, row: Row) -> float:
        """Blocks until the deadline, at least one; infinitely many without a deadline."""
        if self.deadline_env_steps is None:
            return math.inf
        return max(1, math.ceil((self.deadline_env_steps - row.elapsed_env_steps) / self.frameskip))

    def _horizon(self, row: Row) -> int:
        """Blocks to look ahead: none that begins after the deadline, where nothing that happens counts any more."""
        return int(min(self.horizon, self._blocks_left(row)))

    def _plan(self, rows: list[Row], group: list[int], belief: Belief, decisions: list[Decision | None]) -> None:
        """Plans for the episodes of `group`, who share a horizon and have this `belief`, in one call."""
        goal = torch.cat([rows[i].goal for i in group])
        horizon = self._horizon(rows[group[0]])
        init = torch.cat([self._warm_start(rows[i], horizon) for i in group])
        deadline = torch.tensor([self._blocks_left(rows[i]) for i in group], device=self.device)
        problem = self.problem(belief, goal, init, deadline, [self._generator(rows[i]) for i in group])
        flops = self.model.rollout_flops(horizon, belief.latents.shape[1])
        if self.heads is not None:
            asked = self.cost.asks_for_steps * self.heads.distance_flops
            flops += horizon * (asked + self.cost.asks_for_actor * self.heads.actor_flops)
        result = plan(self.planner, problem, self.budget, flops)
        costs, traces = result.cost.tolist(), result.trace.T.tolist()
        for place, i in enumerate(group):
            decisions[i] = Decision(
                cost=costs[place],
                trace=tuple(traces[place]),
                rollouts=result.rollouts,
                flops=result.flops,
                seconds=result.seconds,
                overshoot=result.overshoot,
                batch=len(group),
            )
            rows[i] = replace(
                rows[i],
                plan=result.actions[place : place + 1].unflatten(2, (self.frameskip, -1)).flatten(1, 2),
                committed=self._commit(rows[i]),
                num_plans=rows[i].num_plans + 1,
            )

    def problem(
        self, belief: Belief, goal: Tensor, init: Tensor, deadline: Tensor, generators: Sequence[torch.Generator]
    ) -> Problem:
        """What `predict` asks its planner, for B episodes.

        Args:
            belief: the present.
            goal: latents ``(B, *Z)``.
            init: first guess ``(B, T, F*A)``.
            deadline: blocks left, ``(B,)``, maybe infinitely many.
            generators: one an episode.
        """
        rest = self.cost, self.bf16, self.max_rollouts, self.heads, deadline
        imagination = Imagination(self.model, belief, goal, *rest)
        problem = Problem(
            objective=imagination.objective,
            init=init,
            scale=torch.ones_like(init),
            low=self._low,
            high=self._high,
            generators=generators,
            action_size=self.normalizer.action_size,
            dynamics=imagination,
            step_flops=init.shape[1] * self.model.rollout_flops(1, 1),
        )
        if self.proposal is None:
            return problem
        propose = partial(self.proposal, imagination, problem)
        flops = self.proposal.flops(init.shape[1], belief.latents.shape[1])
        return replace(problem, scale=self.proposal_std * problem.scale, propose=propose, propose_flops=flops)

    def _warm_start(self, row: Row, horizon: int) -> Tensor:
        """What is left of the last plan, then the mean action, ``(1, T, F*A)``."""
        init = torch.zeros(1, horizon * self.frameskip, self.normalizer.action_size, device=self.device)
        left = row.plan[:, : init.shape[1]]
        init[:, : left.shape[1]] = left
        return init.unflatten(1, (horizon, self.frameskip)).flatten(2)

    def _commit(self, row: Row) -> int:
        """Environment steps to take before planning again: the last block is taken whole, none fits in after it."""
        if self._blocks_left(row) == 1:
            return self.frameskip
        return min(self.replan_every_env_steps, self._horizon(row) * self.frameskip)

    def _generator(self, row: Row) -> torch.Generator:
        seed = zlib.crc32(row.num_plans.to_bytes(8, "little"), row.seed)
        return torch.Generator(self.device).manual_seed(seed)

    def _take(self, row: Row) -> Row:
        """`row` after the next environment action of its plan."""
        taken = torch.cat([row.taken, row.plan[:, :1]], dim=1)
        return replace(
            row,
            taken=taken[:, max(0, taken.shape[1] - self._remembered_env_steps) :],
            plan=row.plan[:, 1:],
            committed=row.committed - 1,
            elapsed_env_steps=row.elapsed_env_steps + 1,
        )
