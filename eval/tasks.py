"""Tasks: frozen pairs of start and goal, on which every policy is evaluated, and the file that holds them."""

from __future__ import annotations

import hashlib
import json
import math
import pkgutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np

from ..envs import EnvSpec, find_env, name_of
from ..envs.base import GoalImageEnv, State
from ..errors import MachineError, UserError
from ..files import write_text
from ..validation import check_choice
from .json_file import checked_count, checked_list, checked_numbers, checked_object, parse_json, read_text
from .task_checks import check_rules, check_tasks

SHIPPED = Path(__file__).parent / "tasks"
FORMAT = "lwm-agent tasks 1"
# Training episodes are drawn from SeedSequence([seed, episode]), which NumPy pads with zeros: a third word that is not
# zero keeps the held-out episodes apart from the training data of every seed.
HELD_OUT = 0x7E57
DRAWN = ("drawn", "drawn-wall", "drawn-turned", "drawn-edge")
"""Protocols of goals that no play has reached: any state that the environment may start in, or of an unusual kind."""
MAX_TRIES = 50  # episodes played for a task before the protocol is called impossible


@dataclass(frozen=True)
class Task:
    """One start and goal: both cut out of an episode of scripted play, or the goal drawn.

    Attributes:
        state: simulator state at the start, as in ``info["state"]``.
        goal_state: simulator state at the goal.
        env_actions: the actions between them, (offset, A), exact in float32; none to a goal that was drawn.
        episode_seed: seed with which the episode was reset.
        start_step: environment step of the episode at which the window starts.
    """

    state: tuple[float, ...]
    goal_state: tuple[float, ...]
    env_actions: tuple[tuple[float, ...], ...]
    episode_seed: int
    start_step: int

    @property
    def reset_options(self) -> dict[str, Any]:
        """Options with which ``env.reset(options=...)`` begins the task."""
        return {"state": self.state, "goal_state": self.goal_state}


@dataclass(frozen=True)
class TaskSet:
    """The tasks of an evaluation and the rules that hold for them.

    Attributes:
        env: name in `ENVS`.
        env_id: id for ``gymnasium.make``.
        env_kwargs: its arguments, such as the success criterion.
        protocol: rule that chose the tasks, a key of `PROTOCOLS`.
        split: ``test``, ``val`` or ``custom``.
        offset_env_steps: environment steps between start and goal in the episode they come from; of drawn goals, half
            the budget.
        budget_env_steps: environment steps that a policy may use.
        seed: source of the episodes.
        tasks: the tasks.
    """

    env: str
    env_id: str
    env_kwargs: dict[str, Any]
    protocol: str
    split: str
    offset_env_steps: int
    budget_env_steps: int
    seed: int
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("there are no tasks in the task set")
        state_size = len(self.tasks[0].state)
        for index, task in enumerate(self.tasks):
            if not len(task.state) == len(task.goal_state) == state_size:
                raise UserError(f"task {index}: start and goal must have {state_size} numbers, as in task 0")
            if not all(map(math.isfinite, (*task.state, *task.goal_state))):
                raise UserError(f"task {index}: start and goal must be finite")
            expected = 0 if self.protocol in DRAWN else self.offset_env_steps
            if len(task.env_actions) != expected:
                raise UserError(f"task {index}: {len(task.env_actions)} actions, expected {expected}")

    @property
    def sha256(self) -> str:
        """Hash of the file's contents; two results can be compared if they share it."""
        return hashlib.sha256(self._to_json().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes the tasks as JSON, with floats that restore exactly."""
        write_text(path, self._to_json())

    def _to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"), allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> TaskSet:
        """Tasks of a file that `save` wrote.

        Raises:
            UserError: the file is damaged, or its tasks are none of the environment that it names.
        """
        text = read_text(path, "a task file")
        try:
            contents = parse_json(text, constants=True)
        except ValueError as error:
            raise UserError(f"{path} is not a task file, or is damaged: {error}") from error
        stored = contents.pop("format", None) if isinstance(contents, dict) else None
        if stored != FORMAT:
            raise UserError(f"{path} is not a task file: its format is {stored!r:.60}, expected {FORMAT!r}")
        try:
            _check_keys(contents, cls, "the file")
            check_rules(contents)
            rows = checked_list(contents.pop("tasks"), "tasks")
            task_set = cls(**contents, tasks=tuple(_parse_task(index, row) for index, row in enumerate(rows)))
            states = [(task.state, task.goal_state) for task in task_set.tasks]
            check_tasks(task_set.env, task_set.env_kwargs, states, [task.env_actions for task in task_set.tasks])
        except MachineError:
            raise
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        return task_set


def _parse_task(index: int, value: Any) -> Task:
    """Task of a JSON value; raises ValueError if it has other fields or types."""
    place = f"task {index}"
    row = checked_object(value, place)
    _check_keys(row, Task, place)
    actions = checked_list(row["env_actions"], f"{place}: env_actions")
    return Task(
        state=checked_numbers(row["state"], f"{place}: state"),
        goal_state=checked_numbers(row["goal_state"], f"{place}: goal_state"),
        env_actions=tuple(checked_numbers(action, f"{place}: env_actions") for action in actions),
        episode_seed=checked_count(row["episode_seed"], f"{place}: episode_seed"),
        start_step=checked_count(row["start_step"], f"{place}: start_step"),
    )


def _check_keys(contents: dict[str, Any], cls: type[Task] | type[TaskSet], place: str) -> None:
    expected, stored = {field.name for field in fields(cls)}, set(contents)
    if expected != stored:
        missing, unknown = sorted(expected - stored), sorted(stored - expected)
        raise ValueError(f"{place} has wrong keys: missing {missing}, unknown {unknown}")


def shipped_tasks(env: str, protocol: str = "strict", split: str = "test", offset: int = 25) -> TaskSet:
    """The frozen tasks that come with the package.

    Args:
        env: name or id of an environment.
        protocol: a key of `PROTOCOLS`.
        split: test, or val for tuning.
        offset: environment steps from start to goal: 25, 50, 75 or 100.

    Raises:
        UserError: there are no such tasks.
    """
    env = name_of(env)
    path = SHIPPED / f"{env}-{protocol}-{split}-{offset}.json"
    if not path.exists():
        choices = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json"))) or "none"
        named = "" if protocol == "strict" else f"--protocol {protocol} "
        raise UserError(
            f"no tasks {path.stem!r} are shipped: choose one of {choices}; or make others, with `lwm-agent tasks "
            f"--env {env} {named}--offset {offset} --out tasks.json`, and evaluate on them with {named}"
            "--tasks tasks.json"
        )
    return TaskSet.load(path)


def _strict(env: GoalImageEnv, state: State, goal_state: State) -> bool:
    return not env.is_success(state, goal_state) and env.is_nontrivial(state, goal_state)


def _unfiltered(env: GoalImageEnv, state: State, goal_state: State) -> bool:
    return True


PROTOCOLS: dict[str, Callable[[GoalImageEnv, State, State], bool]] = {
    "strict": _strict,  # not solved at the start, and not solvable by moving the agent alone
    **dict.fromkeys(DRAWN, _strict),  # of a start in play and a goal that was drawn
    "lewm-paper": _unfiltered,  # arXiv 2603.19312: any window, so some are solved before the first step
}


def make_tasks(
    env: str,
    offset: int,
    episodes: int,
    seed: int,
    protocol: str = "strict",
    *,
    split: str = "custom",
    progress: Callable[[int, int], None] | None = None,
) -> TaskSet:
    """Cuts one random window out of each of `episodes` held-out episodes of the environment's scripted play.

    With the protocols `DRAWN`, goals are drawn, instead: nobody has reached them.

    Args:
        env: name in `ENVS`, or MODULE:NAME.
        offset: environment steps between start and goal; the budget is twice that.
        episodes: tasks wanted; episodes whose window the protocol refuses are replaced by further ones.
        seed: source of the episodes, which are never those of training data, whatever their seed.
        protocol: a key of `PROTOCOLS`.
        split: name to file the tasks under.
        progress: called after each task with the number of tasks so far and the number wanted.
    """
    spec = _checked_spec(env, offset, protocol)
    tasks: list[Task] = []
    # Nothing here looks at pictures.
    with gym.make(spec.env_id, **spec.no_pixels_kwargs, terminate_on_success=False, disable_env_checker=True) as player:
        simulator = cast(GoalImageEnv, player.unwrapped)
        for episode in range(MAX_TRIES * episodes):
            task = _cut_window(player, spec, offset, np.random.SeedSequence([seed, episode, HELD_OUT]))
            if protocol in DRAWN:
                task = replace(task, goal_state=_drawn_goal(simulator, protocol, task), env_actions=())
            if not PROTOCOLS[protocol](simulator, np.array(task.state), np.array(task.goal_state)):
                continue
            if task.env_actions:
                _check_replay(player, task)
            tasks.append(task)
            if progress is not None:
                progress(len(tasks), episodes)
            if len(tasks) == episodes:
                return TaskSet(name_of(env), spec.env_id, {}, protocol, split, offset, 2 * offset, seed, tuple(tasks))
    raise MachineError(f"{protocol} accepted {len(tasks)} of {MAX_TRIES * episodes} windows, wanted {episodes}")


def _checked_spec(env: str, offset: int, protocol: str) -> EnvSpec:
    spec = find_env(env)
    check_choice("protocol", protocol, PROTOCOLS)
    if not 1 <= offset <= spec.max_episode_steps:
        raise UserError(f"offset={offset} is out of range: choose one from 1 to {spec.max_episode_steps}")
    return spec


def _cut_window(player: gym.Env[Any, Any], spec: EnvSpec, offset: int, sequence: np.random.SeedSequence) -> Task:
    rng = np.random.default_rng(sequence)
    start = int(rng.integers(spec.max_episode_steps - offset + 1))
    episode_seed = int(rng.integers(2**31))
    policy = pkgutil.resolve_name(spec.policies["play"])(rng)
    policy.reset()
    _, info = player.reset(seed=episode_seed)
    states, actions = [tuple(info["state"].tolist())], []
    for _ in range(start + offset):
        # Played as rounded, three decimals describe the actions exactly: the files stay small.
        action = np.round(policy(info), 3).astype(np.float32)
        _, _, _, _, info = player.step(action)
        states.append(tuple(info["state"].tolist()))
        actions.append(tuple(float(str(value)) for value in action))
    return Task(states[start], states[-1], tuple(actions[start:]), episode_seed, start)


def _drawn_goal(simulator: GoalImageEnv, protocol: str, task: Task) -> tuple[float, ...]:
    kind = protocol.removeprefix("drawn-")
    usual = kind == "drawn"
    goal = simulator.sample_state() if usual else simulator.unusual_goal(kind, np.array(task.state))
    if goal is None:
        raise UserError(f"protocol={protocol!r}: this environment has no such goals: choose another, such as drawn")
    return tuple(goal.tolist())


def _check_replay(player: gym.Env[Any, Any], task: Task) -> None:
    _, info = player.reset(options=task.reset_options)
    for action in task.env_actions:
        _, _, _, _, info = player.step(np.array(action, np.float32))
    miss = float(np.abs(info["state"] - task.goal_state).max())
    if miss > 0:
        raise MachineError(
            f"replaying the actions misses the goal by {miss:g} (episode seed {task.episode_seed}, step "
            f"{task.start_step}): set_state of {player.unwrapped} does not restore exactly"
        )
