"""`lwm-agent eval`: an agent, or a policy without a model, on tasks, and the files of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

from ..compute.device import any_gpu, count_devices
from ..envs import ENVS, find_env, name_of
from ..envs.shifts import shifted
from ..errors import UserError
from ..eval import (
    Episode,
    EpisodeLog,
    Recorder,
    Summary,
    TaskSet,
    evaluate,
    fingerprint,
    save_results,
    shipped_tasks,
    summarize,
)
from ..eval.comparison import FLOORS
from ..eval.video import video_name
from .child import share_out
from .config import PROTOCOL_NAMES, EvalConfig
from .policies import ConfiguredPolicy, make_policy, model_free_policy

FILMS = "videos"
"""Folder of the videos, in that of the results."""


class Item(NamedTuple):
    """An episode to play: number of its task, and the floor that plays it, None for the policy that is evaluated."""

    floor: str | None
    task: int


Finish = Callable[[str | None, Episode], None]
"""Receives the floor and each episode that is over."""


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


def run_evaluation(config: EvalConfig, on_episode: Callable[[Episode, int], None] | None = None) -> Report:
    """Evaluates, writes ``results.json``, ``results.csv`` and videos, and resumes an evaluation that was interrupted.

    Several processes share the tasks, those of the floors too. Each plays its own as one process would: what is random
    follows from the seed and the task.

    Args:
        config: settings.
        on_episode: called with each finished episode and the number of tasks.

    Raises:
        UserError: settings, tasks and checkpoint do not fit, or the folder holds another evaluation.
    """
    task_set = load_tasks(config)
    num_tasks = len(task_set.tasks)
    entrant = make_policy(config, task_set)
    run = entrant.run_info(task_set, config.seed, config.shift)
    run["max_rollouts"] = entrant.max_rollouts
    path = config.output_dir / "episodes.jsonl"
    log = EpisodeLog(path, fingerprint(run), num_tasks=num_tasks, overwrite=config.overwrite)
    num_resumed = len(log.episodes)
    floor_episodes: dict[str, dict[int, Episode]] = {name: {} for name in FLOORS if config.with_floors}

    def finish(floor: str | None, episode: Episode) -> None:
        if floor is not None:
            floor_episodes[floor][episode.index] = episode
            return
        log.append(episode)
        if on_episode is not None:
            on_episode(episode, num_tasks)

    items = [Item(None, index) for index in range(num_tasks) if index not in log.episodes]
    items += [Item(floor, index) for floor in floor_episodes for index in range(num_tasks)]
    workers = min(config.workers, len(items))
    if workers > 1:
        work = partial(_play_alone, _shared(config, entrant), task_set)
        with closing(share_out(work, items, workers, any_gpu(config.device))) as results:
            for floor, episode in results:
                finish(floor, episode)
    else:
        _play(config, task_set, entrant, items, finish)
    floor_rows = {name: [rows[index] for index in range(num_tasks)] for name, rows in floor_episodes.items()}
    summary = save_results(config.output_dir, run, [log.episodes[index] for index in range(num_tasks)], floor_rows)
    summaries = {config.planner: summary, **{name: summarize(rows) for name, rows in floor_rows.items()}}
    films = [config.output_dir / FILMS / video_name(index) for index in range(config.video)]
    return Report(summaries, task_set, num_resumed, sum(film.exists() for film in films))


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


def _shared(config: EvalConfig, entrant: ConfiguredPolicy) -> EvalConfig:
    """The settings of one of the processes that share an evaluation: those on one device share its memory.

    Raises:
        UserError: they would take time from each other, and plans have so many milliseconds.
    """
    sharing = -(-config.workers // count_devices(config.device))
    if sharing > 1 and config.budget_ms is not None:
        raise UserError(
            f"--workers {config.workers}: with --budget-ms, processes on one device take time from each other: leave "
            "one of the two out"
        )
    if sharing == 1 or not entrant.max_rollouts:
        return config
    agent = {"max_rollouts": max(1, entrant.max_rollouts // sharing), **config.agent_settings}
    return replace(config, agent_settings=agent)


def _play_alone(
    config: EvalConfig, task_set: TaskSet, items: Sequence[Item], send: Callable[[tuple[str | None, Episode]], None]
) -> None:
    """`_play` in a process that has neither the policy nor the environment's module yet."""
    find_env(config.env)
    _play(config, task_set, make_policy(config, task_set), items, lambda floor, episode: send((floor, episode)))


def _play(
    config: EvalConfig,
    task_set: TaskSet,
    entrant: ConfiguredPolicy,
    items: Sequence[Item],
    finish: Finish,
) -> None:
    """Plays episodes of the policy, and of the floors."""
    recorder = None
    if config.video:
        folder = config.output_dir / FILMS
        recorder = Recorder(folder, task_set, count=config.video, inspect=entrant.inspect, words=entrant.words)
    # Floors act by the same conventions, but do not use pictures.
    blind = {**entrant.env_kwargs, **find_env(config.env).no_pixels_kwargs}
    for floor, group in groupby(items, key=lambda item: item.floor):
        policy = entrant.policy
        if floor is not None:
            policy = model_free_policy(floor, task_set, blind, config.seed)
        evaluate(
            policy,
            task_set,
            batch_size=config.batch_size,
            seed=config.seed,
            env_kwargs=entrant.env_kwargs if floor is None else blind,
            wrap_env=partial(shifted, shifts=config.shift, name=config.env),
            indices=[item.task for item in group],
            on_episode=partial(finish, floor),
            recorder=recorder if floor is None else None,
        )
