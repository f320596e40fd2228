"""Checks of task files against the environment that they name."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np

from ..envs import ENVS
from ..envs.base import GoalImageEnv
from ..errors import UserError
from .json_file import checked_count, checked_object, checked_text, is_number

MAX_BUDGET_ENV_STEPS = 100_000
SET_BY_EVALUATION = ("terminate_on_success", "render_mode", "render_size")
"""Arguments of every environment that tasks cannot choose."""


def check_rules(contents: Mapping[str, Any]) -> None:
    """Refuses rules of a task file that are of a wrong type or that its environment does not have.

    Gymnasium imports code for some ids (``module:Name-v0``), so an id is compared before it is used.

    Raises:
        ValueError: a rule is wrong; the message names it.
    """
    env = contents["env"]
    if not isinstance(env, str) or env not in ENVS:
        raise ValueError(
            f"env={env!r:.60} is unknown: choose one of {', '.join(ENVS)}, or pass --env MODULE:NAME of one of your own"
        )
    spec = ENVS[env]
    if contents["env_id"] != spec.env_id:
        raise ValueError(f"env_id={contents['env_id']!r:.60} is not that of {env}: {spec.env_id!r}")
    for name in ("protocol", "split"):
        checked_text(contents[name], name)
    checked_count(contents["offset_env_steps"], "offset_env_steps", 1, spec.max_episode_steps)
    checked_count(contents["budget_env_steps"], "budget_env_steps", 1, MAX_BUDGET_ENV_STEPS)
    checked_count(contents["seed"], "seed")
    choices = arguments_of(pkgutil.resolve_name(spec.entry_point)) - set(SET_BY_EVALUATION)
    for name, value in checked_object(contents["env_kwargs"], "env_kwargs").items():
        if name not in choices:
            raise ValueError(f"env_kwargs.{name} is unknown: choose from {', '.join(sorted(choices))}")
        if not isinstance(value, str | bool) and not is_number(value):
            raise ValueError(f"env_kwargs.{name}={value!r:.60} is not a word, a number, true or false")


def arguments_of(env: type[GoalImageEnv]) -> set[str]:
    """Names of the constructor's arguments, those of its bases included, which it may pass on."""
    names: set[str] = set()
    for parent in env.__mro__[: env.__mro__.index(GoalImageEnv) + 1]:
        constructor = vars(parent).get("__init__", object.__init__)
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        names |= {item.name for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}
    return names


def check_tasks(
    env: str,
    env_kwargs: Mapping[str, Any],
    states: Sequence[tuple[Sequence[float], Sequence[float]]],
    env_actions: Sequence[Sequence[Sequence[float]]],
) -> None:
    """Refuses tasks that their environment cannot play.

    Args:
        env: name in `ENVS`.
        env_kwargs: arguments of the environment, after `check_rules`.
        states: start and goal of each task.
        env_actions: actions of each task, ``(tasks, offset, A)``.

    Raises:
        ValueError: an argument, a state or an action is none of the environment's; the message names it.
    """
    spec = ENVS[env]
    with gym.make(spec.env_id, disable_env_checker=True, **{**spec.no_pixels_kwargs, **env_kwargs}) as instance:
        simulator, space = cast(GoalImageEnv, instance.unwrapped), cast(gym.spaces.Box, instance.action_space)
    for index, (state, goal_state) in enumerate(states):
        simulator.check_state(state, f"task {index}: state")
        simulator.check_state(goal_state, f"task {index}: goal_state")
        for step, action in enumerate(env_actions[index]):
            if len(action) != space.shape[0]:
                raise UserError(f"task {index}: action {step} has {len(action)} numbers, expected {space.shape[0]}")
            vector = np.array(action, np.float32)
            if not space.contains(vector):
                raise UserError(f"task {index}: action {step}, {list(action)}, is not in the action space {space}")
