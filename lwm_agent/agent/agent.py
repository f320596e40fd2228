"""The agent: receding-horizon planning with a world model, behind Stable-Baselines3's `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..compute.device import keep_freed_memory, resolve_device, unaffected
from ..errors import UserError, UserTypeError
from ..insight import Insight
from ..models import LatentModel, WorldModel
from ..planners import UNLIMITED, Budget, make_cost, make_planner
from ..protocols import Planner
from ..validation import NonNegative, PositiveInt, Seed, check_arguments
from .capacity import max_parallel_rollouts
from .environment import check_env
from .inspector import Inspector
from .networks import choose_bf16, ready_networks
from .observer import Observer
from .proposal import make_proposal
from .reactor import Reactor
from .replanner import Replanner
from .schedule import Schedule
from .state import AgentState, episode_starts

Observation = dict[str, NDArray[np.uint8]]


def default_planner(checkpoint: Checkpoint, proposal: str = "auto") -> str:
    """Name of the planner to use unless there is a reason for another: CEM, a small one if there is an actor.

    A model that cannot imagine acts by its policy.

    That is "guided": in docs/results.md, for goals 25 steps ahead, nothing is measurably better, at a third of the
    compute of "cem".
    """
    if not isinstance(checkpoint.model, WorldModel):
        return "policy"
    if checkpoint.normalizer.discrete:
        return "categorical-cem"
    return "cem" if checkpoint.goal_actor is None or proposal == "none" else "guided"


class Agent:
    """Plans with a world model and acts through `predict`, which has the signature of Stable-Baselines3.

    All memory of an episode is in the `AgentState` that `predict` takes and returns, so one agent serves any number of
    environments.

    Args:
        checkpoint: the world model and its units.
        planner: a planner, or the name of one in `PLANNERS`; None takes the `default_planner`.
        cost: planning cost of an imagined future: a name in `COSTS`, or a weighted sum (`make_cost`); None takes what
            the checkpoint recommends.
        proposal: where a plan starts: "actor", futures by the checkpoint's actor; "none", the rest of the last plan;
            "auto", the actor if there is one.
        num_proposals: P, futures that the actor imagines, the first from its mean actions, the others from random ones.
        proposal_std: standard deviation of the first candidates around the best proposal, normalised.
        horizon: T, blocks that a plan looks ahead.
        replan_every_env_steps: environment steps executed before planning again; None is what the checkpoint
            recommends, else a block, the model's own step. The last block before the deadline is executed whole.
        deadline_env_steps: environment steps that the agent has for a goal, if that is known: plans then end with the
            block that reaches the deadline.
        budget: limit of what one call may spend; None leaves it to the planner's own number of iterations.
        seed: source of every random choice.
        device: "auto", "cpu", "cuda" or "mps".
        bf16: imagine rollouts in bfloat16; None does so where it is faster.
        int8: imagine rollouts in 8-bit integers, for CPUs with VNNI on which bfloat16 is no faster than float32;
            rollouts with gradients stay float32. It pays together with `compile`.
        compile: rollouts, proposals and the actor by torch.compile, on CUDA as CUDA graphs: faster, once the first plan
            of each horizon has waited for the compiler.
        max_rollouts: rollouts that are imagined at once, of candidates or of the actor's futures, which bounds memory;
            None takes as many as half of the free memory holds, with gradients and up to 2,048 (32,768 on CUDA).
        keep_imagined: keep what each plan was imagined to lead to, and what the search tried, in
            `AgentState.decisions`, to look at: `insight` shows it.
        keep_surprise: keep in `AgentState.surprise` how wrong the model's last prediction was. It takes one more
            imagined block for each observed frame: 2 % of a decision with a search, a third of one by a policy.

    Raises:
        UserError: an unknown name, a value out of range, or parts that do not fit each other.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        planner: Planner | str | None = None,
        *,
        cost: str | None = None,
        proposal: str = "auto",
        num_proposals: PositiveInt = 16,
        proposal_std: NonNegative = 0.5,
        horizon: PositiveInt = 5,
        replan_every_env_steps: PositiveInt | None = None,
        deadline_env_steps: PositiveInt | None = None,
        budget: Budget | None = None,
        seed: Seed = 0,
        device: str = "auto",
        bf16: bool | None = None,
        int8: bool = False,
        compile: bool = False,  # noqa: A002  (what torch calls it)
        max_rollouts: PositiveInt | None = None,
        keep_imagined: bool = False,
        keep_surprise: bool = False,
    ) -> None:
        arguments = dict(locals())  # before there are other names
        del arguments["self"]
        check_arguments("agent", Agent, arguments)
        if not isinstance(checkpoint, Checkpoint):
            raise UserTypeError(f"checkpoint={checkpoint!r} is no Checkpoint: use Agent.load({str(checkpoint)!r})")
        if not isinstance(budget, Budget | None):
            raise UserTypeError(f"budget={budget!r} is no Budget: write Budget(rollouts=...), seconds=... or flops=...")
        planner = default_planner(checkpoint, proposal) if planner is None else planner
        self.planner = make_planner(planner) if isinstance(planner, str) else planner
        if not isinstance(self.planner, Planner):
            raise UserTypeError(f"planner={planner!r} is no planner: name one, or derive yours from Planner")
        frameskip = checkpoint.model.frameskip
        horizon = 1 if self.planner.reactive else horizon  # a policy that acts by itself looks one block ahead
        if replan_every_env_steps is None:  # the checkpoint's advice is for plans of the usual length
            replan_every_env_steps = min(checkpoint.replan_every_env_steps or frameskip, frameskip * horizon)
        self.schedule = Schedule(frameskip, horizon, replan_every_env_steps, deadline_env_steps)
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.checkpoint = checkpoint
        self.bf16, self.int8, self.compile = choose_bf16(self.device, bf16, int8), int8, compile
        self._check_actions()
        self.cost_name = checkpoint.cost if cost is None else cost
        self.cost = make_cost(self.cost_name)
        if checkpoint.goal_actor is None and self.cost.asks_for_heads:
            raise UserError(f"cost={self.cost_name!r} needs learned heads: train them with `lwm-agent train-heads`")
        with unaffected(self.device):
            ready = ready_networks(checkpoint, self.device, self.bf16, int8, compile)
        usual = checkpoint.usual_surprise if keep_surprise and isinstance(checkpoint.model, WorldModel) else None
        self.observer = Observer(ready.model, ready.normalizer, self.schedule, self.device, self.bf16, seed, usual)
        if self.planner.reactive:
            self.decider: Replanner | Reactor = self._reactor(ready, budget)
            return
        with unaffected(self.device):
            max_rollouts = max_rollouts or max_parallel_rollouts(checkpoint, self.cost, horizon, self.device)
        learned = make_proposal(proposal, ready, num_proposals, self.bf16)
        if learned is None and self.planner.needs_proposal:
            raise UserError(
                f"{type(self.planner).__name__} needs a learned proposal: train one with `lwm-agent train-heads`, and "
                "leave agent.proposal at 'auto'"
            )
        self.decider = Replanner(
            self.observer,
            ready.world_model,
            self.planner,
            self.cost,
            budget or UNLIMITED,
            ready.goal_actor,
            learned,
            proposal_std,
            max_rollouts,
            keep_imagined,
        )

    @property
    def model(self) -> LatentModel:
        """The model, ready for planning."""
        return self.observer.model

    @property
    def max_rollouts(self) -> int:
        """Rollouts that are imagined at once; 0 where a policy acts by itself."""
        return 0 if isinstance(self.decider, Reactor) else self.decider.max_rollouts

    @property
    def replanner(self) -> Replanner:
        """What makes the plans.

        Raises:
            UserError: the agent makes none, its policy acts by itself.
        """
        if isinstance(self.decider, Reactor):
            raise UserError("this agent makes no plans: its planner is 'policy'")
        return self.decider

    @classmethod
    def load(cls, path_or_name: Path | str, planner: Planner | str | None = None, **settings: Any) -> Agent:
        """Agent with the checkpoint in a folder, or with one of the package's own, such as ``pusht-tiny``.

        Needs no data set. `settings` are those of the constructor.
        """
        return cls(Checkpoint.load(path_or_name), planner, **settings)

    def describe(self) -> str:
        """Model and planner in words."""
        model, planner = type(self.checkpoint.model).__name__, type(self.planner).__name__
        if self.planner.reactive:
            return f"{model}, acts by its own policy"
        units = {"num_samples": "candidate", "iterations": "iteration"}
        numbers = {unit: getattr(self.planner, name) for name, unit in units.items() if hasattr(self.planner, name)}
        counts = [f"{number} {unit}" + "s" * (number != 1) for unit, number in numbers.items()]
        return f"{model}, plans by {planner}" + (f" ({', '.join(counts)})" if counts else "")

    def settings(self) -> dict[str, Any]:
        """Settings that decide the agent's actions beside checkpoint, planner and budget, in JSON types."""
        reactive = isinstance(self.decider, Reactor)
        proposal = None if isinstance(self.decider, Reactor) else self.decider.proposal
        return {
            "cost": self.cost_name,
            "proposal": "actor" if reactive or proposal is not None else None,
            "num_proposals": 0 if proposal is None else proposal.num_proposals,
            "proposal_std": None if proposal is None else self.replanner.proposal_std,
            "horizon": self.schedule.horizon,
            "replan_every_env_steps": self.schedule.replan_every_env_steps,
            "deadline_env_steps": self.schedule.deadline_env_steps,
            "bf16": self.bf16,
            "int8": self.int8,
            "compile": self.compile,
            "device": self.device.type,
        }

    def check_env(self, env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]) -> None:
        """Checks that pictures and actions of `env` mean what they meant in the training data.

        Raises:
            UserError: they do not; the message says what differs.
        """
        check_env(env, self.checkpoint)

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: NDArray[np.bool_] | Sequence[bool] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], AgentState]:
        """Environment actions for one observation ``(h, w, C)`` or a batch ``(B, h, w, C)``, and the next state.

        They are ``([B,] A)``, or ``([B])`` indices where the action space is Discrete. Unlike in Stable-Baselines3,
        `deterministic` is True by default.

        Episodes of any age are planned in one call. An episode's actions depend on its own observations and the agent's
        seed, not on the other episodes (to rounding; with a budget in seconds, on their number too).

        A new goal picture starts an episode anew, whatever `episode_start` says: nothing that was planned or remembered
        for the old goal is used again, and the deadline counts from there.

        Args:
            observation: ``{"pixels", "goal"}`` in uint8.
            state: the state that the last call returned; None starts new episodes.
            episode_start: ``(B,)``, where an episode begins: its memory is cleared, the others keep theirs.
            deterministic: False draws the seed of each episode that starts from torch's global generator.

        Raises:
            UserError: observation or state do not fit.
        """
        pixels, goals, single = self._batch(observation)
        starts = episode_starts(len(pixels), state, episode_start)
        if state is not None:
            starts = starts | self.observer.new_goals(state, goals)
        with unaffected(self.device):
            state = self.observer.restart(state, np.flatnonzero(starts), pixels, goals, deterministic)
            state = self.observer.observe(state, pixels)
            state = self.decider.plan(state, np.flatnonzero(state.steps_until_replan == 0))
            actions = self.checkpoint.normalizer.env_actions(state.plan[:, 0])[:, 0]
            return actions[0] if single else actions, _execute(state)

    def insight(self, state: AgentState, row: int = 0) -> Insight:
        """What the last call tells about episode `row` of the `state` that it returned, for people to look at.

        Pictures of the plan and the candidates of the search are there if the agent keeps them (`keep_imagined`).
        """
        return Inspector(self.checkpoint, self.observer)(state, row)

    def _reactor(self, ready: Checkpoint, budget: Budget | None) -> Reactor:
        """The decider of an agent that makes no plans."""
        if ready.policy is None:
            raise UserError(
                "planner='policy': this checkpoint has no policy; train one with `lwm-agent train-heads`, or choose "
                "another planner"
            )
        reactor = Reactor(self.observer, ready.policy)
        if budget is not None and budget.flops is not None and budget.flops < reactor.flops:
            raise UserError(f"a budget of {budget.flops:.3g} FLOPs is below the policy's own, {reactor.flops:.3g}")
        return reactor

    def _check_actions(self) -> None:
        """Refuses a planner of continuous actions where they are discrete, and the other way round."""
        if self.planner.discrete == self.checkpoint.normalizer.discrete:
            return
        kind, advice = (
            ("discrete", "choose categorical-cem")
            if self.checkpoint.normalizer.discrete
            else ("continuous", "choose any but categorical-cem, such as cem")
        )
        raise UserError(f"{type(self.planner).__name__} cannot plan: the checkpoint's actions are {kind}; {advice}")

    def _batch(self, observation: Observation) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
        """Pixels and goals ``(B, h, w, C)``, and whether there was one without a batch axis."""
        if not isinstance(observation, dict) or not {"pixels", "goal"} <= observation.keys():
            raise UserError("the agent needs observations {'pixels': ..., 'goal': ...}, as lwm/PushT-v0 gives them")
        pixels, goal = np.asarray(observation["pixels"]), np.asarray(observation["goal"])
        size = self.model.image_size
        if pixels.shape != goal.shape or pixels.ndim not in (3, 4) or pixels.shape[-3:] != (size, size, 3):
            raise UserError(
                f"pixels {pixels.shape} and goal {goal.shape} must both be ([B,] {size}, {size}, 3): this model sees "
                f"{size}-px frames (gymnasium.make(..., image_size={size}))"
            )
        single = pixels.ndim == 3
        return (pixels[None], goal[None], True) if single else (pixels, goal, False)


def _execute(state: AgentState) -> AgentState:
    """The state after the next environment action of each plan."""
    action, none = state.plan[:, :1], torch.zeros_like(state.plan[:, :1])
    return replace(
        state,
        executed_actions=torch.cat([state.executed_actions[:, 1:], action], dim=1),
        plan=torch.cat([state.plan[:, 1:], none], dim=1),
        steps_until_replan=state.steps_until_replan - 1,
        ages=state.ages + 1,
    )
