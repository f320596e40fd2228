"""`lwm-agent record` and `lwm-agent demo`: tasks that are played and filmed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..eval import Episode, Recorder, TaskSet, evaluate
from ..files import write_text
from .config import EvalConfig
from .evaluate import load_tasks
from .film_config import DemoConfig, FilmConfig, RecordConfig
from .policies import ConfiguredPolicy, make_policy

FILMS = "films.json"


@dataclass(frozen=True)
class Films:
    """Films of tasks.

    Attributes:
        episodes: the episodes that were played.
        task_set: the tasks of which they are some.
        files: the films of each episode.
    """

    episodes: list[Episode]
    task_set: TaskSet
    files: list[list[Path]]


def run_demo(config: DemoConfig) -> Films:
    """Plays a task and films it as a GIF.

    Raises:
        UserError: there is no such task, or settings and checkpoint do not fit.
    """
    return _film(config, config.output_dir, (".gif",), lambda total: [config.task_of(total)])


def run_record(config: RecordConfig, on_episode: Callable[[Episode], None] | None = None) -> Films:
    """Plays tasks and films them as mp4 and GIF, one after the other, so that plans take the time of one episode.

    Raises:
        UserError: there are not enough tasks, or settings and checkpoint do not fit.
    """
    return _film(config, config.out, (".mp4", ".gif"), config.tasks_of, on_episode)


def _film(
    config: FilmConfig,
    folder: Path,
    suffixes: Sequence[str],
    choose: Callable[[int], Sequence[int]],
    on_episode: Callable[[Episode], None] | None = None,
) -> Films:
    """Films of the tasks that `choose` picks by their total, and a file about them."""
    chosen = {"protocol": config.protocol, "offset": config.offset, "tasks": config.tasks}
    entry = EvalConfig.of(config, **chosen, output_dir=folder, video=1)
    task_set = load_tasks(entry)
    indices = choose(len(task_set.tasks))
    entrant = make_policy(entry, task_set)
    episodes, files = film_tasks(entrant, task_set, indices, config.seed, folder, suffixes, on_episode)
    run = entrant.run_info(task_set, config.seed)
    shown = [_shown(episode, paths) for episode, paths in zip(episodes, files, strict=True)]
    contents = {"format": "lwm-agent films 1", "shows": entrant.words, "films": shown, "run": run}
    write_text(folder / FILMS, json.dumps(contents, indent=1) + "\n")
    return Films(episodes, task_set, files)


def film_tasks(
    entrant: ConfiguredPolicy,
    task_set: TaskSet,
    indices: Sequence[int],
    seed: int,
    folder: Path,
    suffixes: Sequence[str] = (".mp4",),
    on_episode: Callable[[Episode], None] | None = None,
) -> tuple[list[Episode], list[list[Path]]]:
    """Plays some tasks, one after the other, and films them; returns the episodes, and the films of each."""
    recorder = Recorder(
        folder, task_set, count=max(indices) + 1, suffixes=suffixes, inspect=entrant.inspect, words=entrant.words
    )
    episodes = evaluate(
        entrant.policy,
        task_set,
        batch_size=1,
        indices=indices,
        seed=seed,
        env_kwargs=entrant.env_kwargs,
        on_episode=on_episode,
        recorder=recorder,
    )
    return episodes, [[recorder.path(index, suffix) for suffix in suffixes] for index in indices]


def _shown(episode: Episode, files: Sequence[Path]) -> dict[str, Any]:
    return {
        "task": episode.index,
        "files": [path.name for path in files],
        "success": episode.success,
        "steps_to_success": episode.steps_to_success,
        "final_errors": episode.final_errors,
        "plan_ms": [round(each, 2) for each in episode.plan_ms],
    }
