"""Evaluation of a policy: episodes in lock-step, their observations as one batch for the policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.base import GoalImageEnv
from ..errors import UserError
from .episode import Decision, Episode, EpisodeRecorder, Run
from .floors import NoOpPolicy, RandomPolicy
from .tasks import Task, TaskSet

if TYPE_CHECKING:
    from ..protocols import Policy

EnvWrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
"""Change of an environment, such as a shift of its pictures or noise on its actions."""


@runtime_checkable
class TaskPolicy(Protocol):
    """A policy that sees its tasks before the first observation."""

    def begin(self, tasks: Sequence[Task]) -> Any:
        """State for one episode of each of `tasks`."""
        ...


@runtime_checkable
class PlanningState(Protocol):
    """State of a policy that plans."""

    @property
    def decisions(self) -> Sequence[Decision | None]:
        """Planning calls of the last `predict`, one a row; None for a row that was not planned."""
        ...


def evaluate(
    policy: Policy,
    task_set: TaskSet,
    *,
    batch_size: int = 50,
    seed: int = 0,
    indices: Iterable[int] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrap_env: EnvWrapper | None = None,
    on_episode: Callable[[Episode], None] | None = None,
    recorder: EpisodeRecorder | None = None,
) -> list[Episode]:
    """Runs a policy on the tasks of a set; an episode ends at its first success or when its budget is spent.

    Args:
        policy: policy to evaluate. Finished episodes are dropped from its batch, so its state must be None, a tuple of
            arrays, or support ``state[rows]`` with an integer array.
        task_set: the tasks.
        batch_size: episodes in lock-step; no policy's rows may depend on each other, so results do not depend on it.
        seed: source of random choices in the environments, such as those of a wrapper; tasks do not depend on it.
        indices: tasks to play; by default all.
        env_kwargs: arguments of ``gymnasium.make`` on top of the set's own, such as the `image_size` of a checkpoint.
        wrap_env: called with each environment, returns the one to use; success and distances come from the inner one.
        on_episode: called with each episode as soon as it is over.
        recorder: recorder of the steps of the tasks that it wants.

    Returns:
        Episodes in the order of `indices`.

    Raises:
        UserError: an argument is out of range, or the policy's action is not in the action space.
    """
    chosen = list(range(len(task_set.tasks)) if indices is None else indices)
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    if not set(chosen) <= set(range(len(task_set.tasks))):
        raise UserError(f"indices must be from 0 to {len(task_set.tasks) - 1}, not {chosen}")
    episodes: dict[int, Episode] = {}

    def finish(run: Run) -> None:
        episodes[run.index] = run.finish()
        if on_episode is not None:
            on_episode(episodes[run.index])

    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(min(batch_size, len(chosen))):
            envs.append(make_env(task_set, env_kwargs))
            envs[-1] = envs[-1] if wrap_env is None else wrap_env(envs[-1])
        for first in range(0, len(chosen), batch_size):
            rows = zip(chosen[first : first + batch_size], envs, strict=False)
            runs = [Run(index, env, recorder) for index, env in rows]
            for run in runs:
                run.reset(task_set, seed)
            _run_batch(policy, task_set, runs, finish)
    finally:
        for env in envs:
            env.close()
    return [episodes[index] for index in chosen]


def make_env(task_set: TaskSet, env_kwargs: Mapping[str, Any] | None = None) -> gym.Env[Any, Any]:
    """An environment of the set's kind that goes on after a success."""
    kwargs = {**task_set.env_kwargs, **(env_kwargs or {}), "terminate_on_success": False}
    return gym.make(task_set.env_id, disable_env_checker=True, **kwargs)


def _run_batch(policy: Policy, task_set: TaskSet, runs: Collection[Run], finish: Callable[[Run], None]) -> None:
    live = _unsolved(runs, finish)
    tasks = [task_set.tasks[run.index] for run in live]
    state = policy.begin(tasks) if isinstance(policy, TaskPolicy) else None
    start = np.ones(len(live), bool)
    for _ in range(task_set.budget_env_steps):
        if not live:
            return
        began = time.perf_counter()
        observation = {key: np.stack([run.observation[key] for run in live]) for key in live[0].observation}
        actions, state = policy.predict(observation, state=state, episode_start=start, deterministic=True)
        thinking = time.perf_counter() - began
        for row, run in enumerate(live):
            run.explain(partial(_select, state, np.array([row])))  # what films show takes no time of the policy's
        began = time.perf_counter()
        decisions = state.decisions if isinstance(state, PlanningState) else [None] * len(live)
        for run, action, decision in zip(live, actions, decisions, strict=True):
            run.step(action, decision)
        share = (thinking + time.perf_counter() - began) / len(live)
        for run in live:
            run.seconds += share
        rows = np.array([row for row, run in enumerate(live) if not run.success], np.int64)
        if len(rows) < len(live):
            state, live = _select(state, rows), _unsolved(live, finish)
        start = np.zeros(len(live), bool)
    for run in live:
        finish(run)


def _unsolved(runs: Collection[Run], finish: Callable[[Run], None]) -> list[Run]:
    for run in runs:
        if run.success:
            finish(run)
    return [run for run in runs if not run.success]


def _select(state: Any, rows: NDArray[np.int64]) -> Any:
    """Rows ``(n,)`` of a policy's state."""
    if state is None:
        return None
    return tuple(_select(part, rows) for part in state) if type(state) is tuple else state[rows]


def floors(
    task_set: TaskSet,
    *,
    batch_size: int = 50,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    wrap_env: EnvWrapper | None = None,
) -> dict[str, list[Episode]]:
    """Episodes of random actions and of doing nothing, which other scores on these tasks are compared with."""
    with make_env(task_set, env_kwargs) as env:
        space, simulator = cast(gym.spaces.Box, env.action_space), cast(GoalImageEnv, env.unwrapped)
    policies: dict[str, Policy] = {"random": RandomPolicy(space, seed), "none": NoOpPolicy(space, simulator)}
    return {
        name: evaluate(policy, task_set, batch_size=batch_size, seed=seed, env_kwargs=env_kwargs, wrap_env=wrap_env)
        for name, policy in policies.items()
    }
