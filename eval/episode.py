"""One episode of an evaluation: its steps and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.base import GoalImageEnv
from ..envs.variation import Value
from ..errors import UserError
from .tasks import TaskSet


@dataclass(frozen=True)
class Episode:
    """Outcome of one task.

    Attributes:
        index: number of the task in its set.
        success: whether the goal was reached at any step.
        solved_at_start: whether it was before the first step: a free point of protocols that do not filter.
        steps_to_success: environment steps to the first success, None without one.
        final_errors: distance to the goal at the end, by the environment's names, which end in the unit.
        min_errors: the smallest of each distance on the way.
        num_decisions: number of plans.
        plan_ms: milliseconds of each planning call, divided by the episodes planned in it.
        rollouts: mean candidate rollouts a decision.
        flops: mean floating-point operations a decision.
        seconds: share of this episode in the wall time of policy and environment.
        overshoot_ms: most milliseconds by which a planning call, of one episode or many, exceeded its budget.
    """

    index: int
    success: bool
    solved_at_start: bool
    steps_to_success: int | None
    final_errors: dict[str, float]
    min_errors: dict[str, float]
    num_decisions: int
    plan_ms: tuple[float, ...]
    rollouts: float
    flops: float
    seconds: float
    overshoot_ms: float = 0.0


class Decision(Protocol):
    """Cost and outcome of a planning call."""

    seconds: float  # wall time of the call
    overshoot: float  # part of it beyond the budget
    batch: int  # episodes planned in it
    rollouts: float  # of one episode
    flops: float  # of one episode
    cost: float  # of the plan
    trace: Sequence[float]  # best cost after each iteration


class EpisodeRecorder(Protocol):
    """Receives every step of the tasks that it asks for; `lwm_agent.eval.video.Recorder` is one."""

    def wants(self, index: int) -> bool:
        """True if task `index` is to be recorded."""
        ...

    def begin(self, index: int, variation: Mapping[str, Value]) -> None:
        """Receives the values of the environment's factors, when task `index` begins."""
        ...

    def record(self, index: int, info: dict[str, Any]) -> None:
        """Receives the info of the reset, then of each step."""
        ...

    def explain(self, index: int, policy_state: Any) -> None:
        """Receives the policy's state, of this episode alone, after its call for the newest info."""
        ...

    def finish(self, episode: Episode) -> None:
        """Receives the outcome, when the episode is over."""
        ...


def episode_seed(seed: int, index: int) -> int:
    """The seed of the reset with which an evaluation of this `seed` begins its task `index`.

    It is for wrappers, such as noise. It follows from the task, so that results do not depend on the batch.
    """
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


class Run:
    """An episode that is being played.

    Attributes:
        index: number of the task in its set.
        observation: the newest observation.
        success: whether the task is solved.
        seconds: wall time so far.
    """

    def __init__(self, index: int, env: gym.Env[Any, Any], recorder: EpisodeRecorder | None) -> None:
        self.index = index
        self._env = env
        self._simulator = cast(GoalImageEnv, env.unwrapped)
        self._recorder = recorder if recorder is not None and recorder.wants(index) else None
        self._decisions: list[Decision] = []
        self._steps = 0
        self._min_errors: dict[str, float] = {}
        self.seconds = 0.0
        self.success = False

    def reset(self, task_set: TaskSet, seed: int) -> None:
        """Puts the environment at the start of the task."""
        task = task_set.tasks[self.index]
        self.observation, info = self._env.reset(seed=episode_seed(seed, self.index), options=task.reset_options)
        if self._recorder is not None:
            self._recorder.begin(self.index, self._simulator.variation)
        self._look(info)

    def step(self, action: NDArray[np.float32], decision: Decision | None) -> None:
        """Takes one environment step, with an action ``(A,)`` and the planning call behind it, if there was one."""
        if not self._env.action_space.contains(action):
            raise UserError(f"the policy's action {action!r} is not in the action space {self._env.action_space}")
        if decision is not None:
            self._decisions.append(decision)
        self.observation, _, _, _, info = self._env.step(action)
        self._steps += 1
        self._look(info)

    def explain(self, select: Callable[[], Any]) -> None:
        """Hands the policy's state, which `select` cuts out, to the recorder, if there is one."""
        if self._recorder is not None:
            self._recorder.explain(self.index, select())

    def _look(self, info: dict[str, Any]) -> None:
        self.success = info["is_success"]
        self._errors = self._simulator.errors(info["state"], info["goal_state"])
        self._min_errors = {name: min(error, self._min_errors.get(name, error)) for name, error in self._errors.items()}
        if self._recorder is not None:
            self._recorder.record(self.index, info)

    def finish(self) -> Episode:
        """Outcome of the episode."""
        decisions = self._decisions
        episode = Episode(
            index=self.index,
            success=self.success,
            solved_at_start=self.success and self._steps == 0,
            steps_to_success=self._steps if self.success else None,
            final_errors=self._errors,
            min_errors=self._min_errors,
            num_decisions=len(decisions),
            plan_ms=tuple(1000.0 * decision.seconds / decision.batch for decision in decisions),
            rollouts=float(np.mean([decision.rollouts for decision in decisions])) if decisions else 0.0,
            flops=float(np.mean([decision.flops for decision in decisions])) if decisions else 0.0,
            seconds=self.seconds,
            overshoot_ms=max((1000.0 * decision.overshoot for decision in decisions), default=0.0),
        )
        if self._recorder is not None:
            self._recorder.finish(episode)
        return episode
