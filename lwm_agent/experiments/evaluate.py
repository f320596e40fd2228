"""`lwm-agent eval`: an agent, or a policy without a model, on tasks, and the files of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import gymnasium as gym

from ..agent.config import load_agent
from ..checkpoint import Checkpoint, checksum
from ..compatibility import check_compatible, conventions
from ..envs import ENVS, find_env, name_of
from ..envs.base import GoalImageEnv
from ..errors import UserError
from ..eval import (
    Episode,
    EpisodeLog,
    Inspect,
    ModelAccount,
    NoOpPolicy,
    RandomPolicy,
    Recorder,
    ReplayPolicy,
    Summary,
    TaskSet,
    evaluate,
    fingerprint,
    floors,
    make_env,
    run_info,
    save_results,
    shipped_tasks,
    summarize,
)
from ..protocols import Policy
from .accounting import account_of
from .config import PROTOCOL_NAMES, EvalConfig, protocol_settings

MODEL_FREE_POLICIES: dict[str, Callable[[gym.spaces.Box, GoalImageEnv, int], Policy]] = {
    "random": lambda space, env, seed: RandomPolicy(space, seed),
    "none": lambda space, env, seed: NoOpPolicy(space, env),
    "replay": lambda space, env, seed: ReplayPolicy(space),
}
"""Policies without a model: two floors and the ceiling."""


@dataclass(frozen=True)
class Report:
    """Outcome of an evaluation.

    Attributes:
        summaries: summaries by policy: first the one that was evaluated, then the floors.
        task_set: the tasks.
        num_resumed: number of episodes that an earlier run had finished.
        num_videos: number of videos in the output folder.
    """

    summaries: dict[str, Summary]
    task_set: TaskSet
    num_resumed: int
    num_videos: int


@dataclass(frozen=True)
class ConfiguredPolicy:
    """A policy, ready for an evaluation.

    Attributes:
        policy: the policy.
        planner: settings of planner, budget and agent from which its actions follow, in JSON types.
        env_kwargs: arguments of the environment that it needs.
        checkpoint: hash of its checkpoint, None without a model.
        max_rollouts: rollouts that it imagines at once, None without a model. It follows from free memory and changes
            actions by rounding.
        account: costs of its model.
        inspect: what the policy's states tell, where films are made.
        words: its name for people.
    """

    policy: Policy
    planner: dict[str, Any]
    env_kwargs: dict[str, Any]
    checkpoint: str | None = None
    max_rollouts: int | None = None
    account: ModelAccount | None = None
    inspect: Inspect | None = None
    words: str = ""


def run_evaluation(config: EvalConfig, on_episode: Callable[[Episode, int], None] | None = None) -> Report:
    """Evaluates, writes ``results.json``, ``results.csv`` and videos, and resumes an evaluation that was interrupted.

    Args:
        config: settings.
        on_episode: called with each finished episode and the number of tasks.

    Raises:
        UserError: settings, tasks and checkpoint do not fit, or the folder holds another evaluation.
    """
    task_set = load_tasks(config)
    num_tasks = len(task_set.tasks)
    entrant = make_policy(config, task_set)
    films = config.output_dir / "videos"
    recorder = (
        Recorder(films, task_set, count=config.video, inspect=entrant.inspect, words=entrant.words)
        if config.video
        else None
    )
    run = run_info(
        task_set,
        seed=config.seed,
        planner=entrant.planner,
        env_kwargs=entrant.env_kwargs,
        checkpoint=entrant.checkpoint,
        model=entrant.account,
    )
    run["max_rollouts"] = entrant.max_rollouts
    path = config.output_dir / "episodes.jsonl"
    log = EpisodeLog(path, fingerprint(run), num_tasks=num_tasks, overwrite=config.overwrite)
    num_resumed = len(log.episodes)

    def finish(episode: Episode) -> None:
        log.append(episode)
        if on_episode is not None:
            on_episode(episode, num_tasks)

    evaluate(
        entrant.policy,
        task_set,
        batch_size=config.batch_size,
        seed=config.seed,
        env_kwargs=entrant.env_kwargs,
        indices=[index for index in range(num_tasks) if index not in log.episodes],
        on_episode=finish,
        recorder=recorder,
    )
    summaries = _write_results(config, run, task_set, log, entrant.env_kwargs)
    num_videos = 0 if recorder is None else sum(recorder.path(index).exists() for index in range(config.video))
    return Report(summaries, task_set, num_resumed, num_videos)


def _write_results(
    config: EvalConfig,
    run: dict[str, Any],
    task_set: TaskSet,
    log: EpisodeLog,
    env_kwargs: dict[str, Any],
) -> dict[str, Summary]:
    """Plays the floors and writes the results; returns summaries by policy."""
    episodes = [log.episodes[index] for index in range(len(task_set.tasks))]
    floor_episodes: dict[str, list[Episode]] = {}
    if config.with_floors:
        # Floors act by the same conventions, but do not use pictures.
        blind = {**env_kwargs, **find_env(config.env).no_pixels_kwargs}
        floor_episodes = floors(task_set, seed=config.seed, env_kwargs=blind)
    summary = save_results(config.output_dir, run, episodes, floor_episodes)
    return {config.planner: summary, **{name: summarize(rows) for name, rows in floor_episodes.items()}}


def load_tasks(config: EvalConfig) -> TaskSet:
    """The tasks that `config` asks for."""
    find_env(config.env)  # in another process, its module is not imported yet
    if config.tasks is not None:
        task_set = TaskSet.load(config.tasks)
        for name, requested in (("env", name_of(config.env)), ("protocol", config.protocol)):
            stored = getattr(task_set, name)
            if stored != requested:
                usable = stored in (ENVS if name == "env" else PROTOCOL_NAMES)
                advice = f"pass --{name} {stored}" if usable else "make tasks of your own with `lwm-agent tasks`"
                raise UserError(f"{config.tasks} holds tasks of {stored}, not of {requested}: {advice}")
    else:
        task_set = shipped_tasks(name_of(config.env), config.protocol, config.split, config.offset)
    if config.episodes is None:
        return task_set
    if config.episodes > len(task_set.tasks):
        raise UserError(
            f"--episodes {config.episodes}: there are {len(task_set.tasks)} such tasks, make more: `lwm-agent tasks`"
        )
    return replace(task_set, tasks=task_set.tasks[: config.episodes])


def make_policy(config: EvalConfig, task_set: TaskSet) -> ConfiguredPolicy:
    """The policy that `config` asks for."""
    if config.planner in MODEL_FREE_POLICIES:
        with make_env(task_set, config.env_settings) as env:
            space, simulator = cast(gym.spaces.Box, env.action_space), cast(GoalImageEnv, env.unwrapped)
        if config.planner == "replay":
            _check_replayed(task_set, space)
        policy = MODEL_FREE_POLICIES[config.planner](space, simulator, config.seed)
        words = f"policy {config.planner}, without a model"
        return ConfiguredPolicy(policy, {"name": config.planner}, dict(config.env_settings), words=words)
    checkpoint = Checkpoint.load(config.checkpoint_name)
    env_kwargs = agreed_env_kwargs(config, task_set, checkpoint)
    filmed = config.video > 0
    agent = load_agent(with_protocol(config, task_set, checkpoint.model.frameskip), checkpoint, keep_thoughts=filmed)
    planner = {
        "name": config.planner,
        **asdict(agent.planner),  # type: ignore[call-overload]
        "budget": asdict(config.budget),
        "agent": agent.settings(),
    }
    return ConfiguredPolicy(
        agent,
        planner,
        env_kwargs,
        checksum(config.checkpoint_name),
        agent.max_rollouts,
        account_of(agent),
        agent.insight if filmed else None,
        f"{config.checkpoint_name}: {agent.describe()}",
    )


def _check_replayed(task_set: TaskSet, space: gym.spaces.Box) -> None:
    """Refuses to replay the actions of tasks in an action space that is not theirs."""
    with make_env(task_set) as env:
        if env.action_space != space:
            raise UserError(
                f"planner='replay': the tasks' actions are of {env.action_space}, and --set env asks for {space}: "
                "leave that out"
            )


def with_protocol(config: EvalConfig, task_set: TaskSet, frameskip: int) -> EvalConfig:
    """`config` with the settings of agent and planner that its protocol prescribes, where it has none of its own.

    `frameskip` is that of the world model: the protocol of the paper executes whole plans.
    """
    usual = {"deadline_env_steps": task_set.budget_env_steps, **protocol_settings(config.protocol, "agent")}
    if config.planner == "policy":
        usual.pop("horizon", None)  # a policy acts block by block
    elif config.protocol == "lewm-paper":
        usual["replan_every_env_steps"] = usual["horizon"] * frameskip
    search = dict(protocol_settings(config.protocol, config.planner))
    if config.limited:
        search.pop("iterations", None)
    return replace(
        config,
        agent_settings={**usual, **config.agent_settings},
        planner_settings={**search, **config.planner_settings},
    )


def agreed_env_kwargs(config: EvalConfig, task_set: TaskSet, checkpoint: Checkpoint) -> dict[str, Any]:
    """The conventions under which the checkpoint was trained; an error if settings or tasks ask for others."""
    trained = conventions(config.env, checkpoint.env_kwargs)
    asking = {"--set env": config.env_settings, f"the task file {config.tasks}": task_set.env_kwargs}
    for source, settings in asking.items():
        check_compatible(
            config.env,
            trained,
            {**trained, **settings},
            trained_by=f"checkpoint {config.checkpoint_name!r} was trained with",
            requested_by=f"{source} asks for",
            fix=lambda options: "leave it out, or use a checkpoint that was trained with it",
        )
    return trained
