"""`lwm-agent demo`: one shipped task, played and filmed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..agent.config import AgentConfig
from ..eval import Episode, Recorder, TaskSet, evaluate
from .config import DemoConfig, EvalConfig
from .evaluate import load_tasks
from .policies import make_policy


@dataclass(frozen=True)
class Demo:
    """Outcome of a demo.

    Attributes:
        episode: the episode that was played.
        task_set: the tasks of which it is one.
        film: the picture that moves.
    """

    episode: Episode
    task_set: TaskSet
    film: Path


def run_demo(config: DemoConfig) -> Demo:
    """Plays a task and films it.

    Raises:
        UserError: there is no such task, or settings and checkpoint do not fit.
    """
    agent = {item.name: getattr(config, item.name) for item in fields(AgentConfig)}
    entry = EvalConfig(**agent, offset=config.offset, tasks=config.tasks, output_dir=config.output_dir, video=1)
    task_set = load_tasks(entry)
    index = config.task_of(len(task_set.tasks))
    entrant = make_policy(entry, task_set)
    recorder = Recorder(config.output_dir, task_set, count=index + 1, suffix=".gif", paint=entrant.paint)
    (episode,) = evaluate(
        entrant.policy, task_set, indices=[index], seed=config.seed, env_kwargs=entrant.env_kwargs, recorder=recorder
    )
    return Demo(episode, task_set, recorder.path(index))
