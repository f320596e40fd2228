"""`lwm-agent robustness`: an agent where something differs from its training, one evaluation a shift and strength."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..compute.device import any_gpu
from ..envs.shifts import shifted
from ..envs.variation import Strength, in_words
from ..errors import UserError
from ..eval import TaskSet, make_env
from ..eval.comparison_table import markdown_of
from ..eval.figures import new_figure
from ..eval.provenance import command_line, machine
from ..eval.results_file import Results, parse_results
from ..eval.robustness import Robustness, draw_pictures, draw_robustness, measure, robustness_table
from ..files import write_text
from .config import EvalConfig
from .engines import DONE, Outcome, attempt, parallel_jobs, run_jobs
from .evaluate import load_tasks, run_evaluation
from .policies import make_policy
from .robustness_config import RobustnessConfig

FORMAT = "lwm-agent robustness 1"
Progress = Callable[[int, int, str], object]
Key = tuple[str, Strength]
"""Name of a shift, and its strength."""


@dataclass(frozen=True)
class Study:
    """An evaluation of the study.

    Attributes:
        key: its shift; None without one.
        config: its settings.
    """

    key: Key | None
    config: EvalConfig

    @property
    def result(self) -> Path:
        """File of its results."""
        return self.config.output_dir / "results.json"

    @property
    def name(self) -> str:
        """Its shift in words."""
        return self.config.shift[0] if self.config.shift else "no shift"


def run_robustness(config: RobustnessConfig, progress: Progress = lambda *_: None) -> Robustness:
    """Plays all evaluations and writes ``results.json``, ``table.md`` and figures; the same settings go on.

    Args:
        config: settings.
        progress: called with the number of evaluations that are over, that of all, and the last one's name.

    Raises:
        UserError: settings and checkpoint do not fit, an evaluation failed, or matplotlib is not installed.
    """
    new_figure(1, 1)  # first: without matplotlib, nothing need be played
    studies = make_studies(config)
    parallel = parallel_jobs(config, len(studies), timed=config.budget_ms is not None)
    results: dict[Key | None, Results] = {}
    with closing(run_jobs(studies, play, config.engine, parallel, config.address, any_gpu(config.device))) as outcomes:
        for study, outcome in outcomes:
            if outcome.status != DONE:
                raise UserError(f"{study.name}: {outcome.message}")
            results[study.key] = parse_results(study.result)
            progress(len(results), len(studies), study.name)
    usual = studies[0].config
    task_set = load_tasks(usual)
    robustness = measure(
        _title(config, task_set),
        results[None],
        {study.key: results[study.key] for study in studies if study.key is not None},
        {name: shift.unit for name, shift, _ in config.shifts()},
    )
    _save(config, robustness, results[None].run["checkpoint"])
    draw_robustness(robustness, config.output_dir / "robustness.png")
    pictures = _pictures(config, task_set, make_policy(usual, task_set).env_kwargs)
    (config.output_dir / "shifts.png").unlink(missing_ok=True)  # of an earlier study
    if pictures:
        draw_pictures(pictures, config.output_dir / "shifts.png")
    return robustness


def play(study: Study) -> Outcome:
    """Plays an evaluation, or the rest of it."""
    return attempt(lambda: _play(study.config), study.config.output_dir)


def _play(config: EvalConfig) -> Outcome:
    run_evaluation(config)
    return Outcome()


def make_studies(config: RobustnessConfig) -> list[Study]:
    """The evaluation without a shift, with the floors, and one for each shift and strength."""
    keys: list[Key | None] = [None, *((name, strength) for name, _, strength in config.shifts())]
    return [Study(key, _evaluation(config, key)) for key in keys]


def _evaluation(config: RobustnessConfig, key: Key | None) -> EvalConfig:
    words = [] if key is None else [f"{key[0]}={in_words(key[1])}"]
    return EvalConfig.of(
        config,
        protocol=config.protocol,
        split=config.split,
        offset=config.offset,
        tasks=config.tasks,
        episodes=config.episodes,
        batch_size=config.batch_size,
        shift=tuple(words),
        output_dir=(config.output_dir / "evaluations" / (words[0] if words else "none")).absolute(),
        with_floors=key is None,
        overwrite=config.overwrite,
    )


def _title(config: RobustnessConfig, task_set: TaskSet) -> str:
    tasks = f"{len(task_set.tasks)} {task_set.protocol} {task_set.split} tasks"
    return f"{config.checkpoint_name}, {config.planner}: {tasks}, goals {task_set.offset_env_steps} steps ahead"


def _pictures(
    config: RobustnessConfig, task_set: TaskSet, kwargs: dict[str, object]
) -> dict[str, dict[Strength, NDArray[np.uint8]]]:
    """Pictures that the agent sees first in the first task, by shift and strength, of the shifts that can be seen."""
    before = _seen(task_set, kwargs, (), config)
    pictures: dict[str, dict[Strength, NDArray[np.uint8]]] = {}
    for name, _, strength in config.shifts():
        seen = _seen(task_set, kwargs, (f"{name}={in_words(strength)}",), config)
        if not np.array_equal(seen, before):
            pictures.setdefault(name, {})[strength] = seen
    return pictures


def _seen(
    task_set: TaskSet, kwargs: dict[str, object], shifts: tuple[str, ...], config: RobustnessConfig
) -> NDArray[np.uint8]:
    with closing(shifted(make_env(task_set, kwargs), shifts, config.env)) as env:
        observation, _ = env.reset(seed=config.seed, options=task_set.tasks[0].reset_options)
        pixels: NDArray[np.uint8] = observation["pixels"]
        return pixels


def _save(config: RobustnessConfig, robustness: Robustness, checkpoint: str | None) -> None:
    about = {"format": FORMAT, "command": command_line(), "checkpoint": checkpoint, "seed": config.seed}
    contents = {**about, **asdict(robustness), **machine()}
    write_text(config.output_dir / "results.json", json.dumps(contents, indent=1, allow_nan=False) + "\n")
    write_text(config.output_dir / "table.md", markdown_of(robustness_table(robustness)) + "\n")
