"""`lwm-agent eval`: puts an agent or a floor together with tasks, files and a progress report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import gymnasium as gym

from ..agent.config import load_agent
from ..checkpoint import Checkpoint, checksum
from ..compatibility import conventions, mismatch
from ..envs import ENVS
from ..errors import UserError
from ..eval import (
    Episode,
    EpisodeLog,
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
    shipped,
    summarize,
)
from ..protocols import Policy
from .config import EvalConfig, protocol_settings

BASELINES: dict[str, Callable[[gym.spaces.Box, int], Policy]] = {
    "random": RandomPolicy,
    "none": lambda space, seed: NoOpPolicy(space),
    "replay": lambda space, seed: ReplayPolicy(space),
}
"""Policies without a model: two floors and the ceiling."""


@dataclass(frozen=True)
class Report:
    """Summaries by policy, the one asked for first and then the floors, and what else there is to tell."""

    summaries: dict[str, Summary]
    task_set: TaskSet
    num_resumed: int
    num_videos: int


def run_evaluation(config: EvalConfig, on_episode: Callable[[Episode, int], None] | None = None) -> Report:
    """Evaluates, writes ``results.json``, ``results.csv`` and videos, and resumes what was interrupted.

    `on_episode` is called with each finished episode and the number of tasks.
    """
    task_set = load_tasks(config)
    policy, facts, env_kwargs = make_policy(config, task_set)
    run = run_info(task_set, seed=config.seed, planner=facts, env_kwargs=env_kwargs, checkpoint=facts.pop("checkpoint"))
    run["max_rollouts"] = getattr(policy, "max_rollouts", None)  # follows from free memory; rounding follows from it
    log = EpisodeLog(config.output_dir / "episodes.jsonl", fingerprint(run), overwrite=config.overwrite)
    num_resumed = len(log.episodes)
    recorder = Recorder(config.output_dir / "videos", task_set, count=config.video) if config.video else None

    def finish(episode: Episode) -> None:
        log.append(episode)
        if on_episode is not None:
            on_episode(episode, len(task_set.tasks))

    evaluate(
        policy,
        task_set,
        batch_size=config.batch_size,
        seed=config.seed,
        env_kwargs=env_kwargs,
        indices=[index for index in range(len(task_set.tasks)) if index not in log.episodes],
        on_episode=finish,
        recorder=recorder,
    )
    episodes = [log.episodes[index] for index in range(len(task_set.tasks))]
    # Floors act by the same conventions and see no pictures.
    blind = {**env_kwargs, **ENVS[config.env].blind}
    below = floors(task_set, seed=config.seed, env_kwargs=blind) if config.with_floors else {}
    summary = save_results(config.output_dir, run, episodes, below)
    summaries = {config.planner: summary, **{name: summarize(rows) for name, rows in below.items()}}
    videos = 0 if recorder is None else sum(recorder.path(index).exists() for index in range(config.video))
    return Report(summaries, task_set, num_resumed, videos)


def load_tasks(config: EvalConfig) -> TaskSet:
    """The tasks that `config` asks for."""
    if config.tasks is not None:
        task_set = TaskSet.load(config.tasks)
        for name in ("env", "protocol"):
            given, found = getattr(config, name), getattr(task_set, name)
            if found != given:
                raise UserError(f"{config.tasks} holds tasks of {found}, not of {given}: pass --{name} {found}")
    else:
        task_set = shipped(config.env, config.protocol, config.split, config.offset)
    if config.episodes is None:
        return task_set
    if config.episodes > len(task_set.tasks):
        raise UserError(
            f"--episodes {config.episodes}: there are {len(task_set.tasks)} such tasks, make more: `lwm-agent tasks`"
        )
    return replace(task_set, tasks=task_set.tasks[: config.episodes])


def make_policy(config: EvalConfig, task_set: TaskSet) -> tuple[Policy, dict[str, Any], dict[str, Any]]:
    """The policy, the settings that decide what it does, and the arguments of the environment that it needs."""
    if config.planner in BASELINES:
        with make_env(task_set, config.env_settings) as env:
            space = cast(gym.spaces.Box, env.action_space)
        facts: dict[str, Any] = {"name": config.planner, "checkpoint": None}
        return BASELINES[config.planner](space, config.seed), facts, dict(config.env_settings)
    usual = {"deadline_env_steps": task_set.budget_env_steps, **protocol_settings(config.protocol, "agent")}
    if config.protocol == "lewm-paper":  # takes plans whole
        model: Any = Checkpoint.load(config.checkpoint_name).model
        usual["replan_every_env_steps"] = usual["horizon"] * model.frameskip
    agent_settings = {**usual, **config.agent_settings}
    search = dict(protocol_settings(config.protocol, config.planner))
    if config.limited:
        search.pop("iterations", None)
    planner_settings = {**search, **config.planner_settings}
    agent = load_agent(replace(config, agent_settings=agent_settings, planner_settings=planner_settings))
    env_kwargs = agreed_env_kwargs(config, task_set, agent.checkpoint)
    facts = {
        "name": config.planner,
        **asdict(agent.planner),  # type: ignore[call-overload]
        "budget": asdict(config.budget),
        "agent": agent.settings(),
        "checkpoint": checksum(config.checkpoint_name),
    }
    return agent, facts, env_kwargs


def agreed_env_kwargs(config: EvalConfig, task_set: TaskSet, checkpoint: Checkpoint) -> dict[str, Any]:
    """The conventions under which the checkpoint was trained; an error if settings or tasks ask for others."""
    trained = conventions(config.env, checkpoint.env_kwargs)
    for source, given in (("--set env", config.env_settings), (f"the task file {config.tasks}", task_set.env_kwargs)):
        differing = mismatch(config.env, trained, {**trained, **given})
        if differing is not None:
            raise UserError(
                f"{source} asks for {differing.given} and checkpoint {config.checkpoint_name!r} was trained with "
                f"{differing.trained}: leave it out, or use a checkpoint that was trained with it"
            )
    return trained
