"""`lwm-agent recommend`: how agents with a checkpoint plan by default, chosen on validation tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..agent.agent import Agent
from ..checkpoint import Checkpoint, output_folder
from ..checkpoint_config import REPLAN
from ..eval import Episode, Summary, TaskSet
from ..model_card import model_card
from .config import EvalConfig, RecommendConfig
from .evaluate import Report, run_evaluation

Progress = Callable[[str, Episode, int], object]


@dataclass(frozen=True)
class Recommendation:
    """A cost that was stored.

    Attributes:
        cost: the cost.
        replan_every_env_steps: environment steps between two plans; None is a block.
        folder: folder of the checkpoint.
        tried: summaries of what was tried, by cost; empty where one cost alone was named.
    """

    cost: str
    replan_every_env_steps: int | None
    folder: Path
    tried: dict[str, Summary]


def recommend(config: RecommendConfig, on_episode: Progress | None = None) -> Recommendation:
    """Evaluates each cost, unless there is one alone, and stores the best one, the first of equals.

    How often agents plan is stored beside it, where the settings name it (``agent.replan_every_env_steps``).

    The record of the training, and so the model card, names all that were tried.

    Args:
        config: settings.
        on_episode: called with a cost, each of its finished episodes and the number of tasks.

    Raises:
        UserError: the checkpoint cannot be planned with by a cost, or settings and tasks do not fit.
    """
    checkpoint = Checkpoint.load(config.checkpoint)
    folder = output_folder(config.checkpoint, None if config.out is None else Path(config.out))
    replan = config.agent_settings.get(REPLAN, checkpoint.replan_every_env_steps)
    costs = config.cost or (checkpoint.cost,)
    for cost in costs:  # refuses what it cannot use, before the work
        Agent(checkpoint, cost=cost, replan_every_env_steps=replan, device="cpu")
    reports = {} if len(costs) == 1 else {cost: _try(config, cost, on_episode) for cost in costs}
    tried = {cost: report.summaries[config.planner] for cost, report in reports.items()}
    best = max(costs, key=lambda cost: tried[cost].success if tried else 0.0)
    training = dict(checkpoint.training)
    if config.cost:
        training.pop("recommendation", None)
    if tried:
        training["recommendation"] = _record(config, reports[best].task_set, tried)
    changed = replace(checkpoint, cost=best, replan_every_env_steps=replan, training=training)
    changed.save(folder, model_card(changed))
    return Recommendation(best, replan, folder, tried)


def _try(config: RecommendConfig, cost: str, on_episode: Progress | None) -> Report:
    settings = {item.name: getattr(config, item.name) for item in fields(EvalConfig)}
    settings |= {
        "agent_settings": {**config.agent_settings, "cost": cost},
        "output_dir": config.output_dir / quote(cost, safe="+*"),
        "with_floors": False,
    }

    def show(episode: Episode, total: int) -> None:
        if on_episode is not None:
            on_episode(cost, episode, total)

    return run_evaluation(EvalConfig(**settings), show)


def _record(config: RecommendConfig, tasks: TaskSet, tried: dict[str, Summary]) -> dict[str, Any]:
    """Record of the costs that were tried, and how, in JSON types."""
    budget = {name: value for name, value in asdict(config.budget).items() if value is not None}
    return {
        "planner": config.planner,
        "budget": budget,
        "tasks": f"{tasks.protocol} {tasks.split}, offset {tasks.offset_env_steps}",
        "episodes": len(tasks.tasks),
        "tried": {cost: summary.success for cost, summary in tried.items()},
    }
