"""Card of the data policy `expert` of Push-T: python benchmarks/expert.py --out docs/expert.json.

It plays validation tasks by the rules of an evaluation, from the recorded actions as in `collect`: with the noise that
its data have, and without. It sees the true state, and searches in the simulator: no agent that sees pictures can.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from lwm_agent.envs.pusht_expert import SHAKEN, ExpertPolicy
from lwm_agent.eval import Task, make_env, shipped_tasks, wilson
from lwm_agent.eval.provenance import command_line, machine
from lwm_agent.files import write_text

OFFSETS = (25, 50, 75, 100)


class Score(NamedTuple):
    """Score of the expert on tasks of one offset.

    Attributes:
        offset_env_steps: environment steps of play from start to goal.
        shaken: share of the blocks of actions with noise.
        n: tasks.
        solved: those that it solved within twice the offset.
        low: lower end of the 95 % interval of the success rate.
        high: upper end.
        median_env_steps: steps to the goal where solved.
    """

    offset_env_steps: int
    shaken: float
    n: int
    solved: int
    low: float
    high: float
    median_env_steps: float | None


def play(env: Any, task: Task, expert: ExpertPolicy, shaken: float, budget: int) -> int | None:
    """Steps in which the expert solves a task; None where it does not, or gives up."""
    _, info = env.reset(seed=task.episode_seed, options=task.reset_options)
    expert.pursue(np.array(task.goal_state), np.array(task.env_actions), shaken)
    for step in range(1, budget + 1):
        action = expert(info)
        if action is None:
            return None
        *_, info = env.step(action)
        if info["is_success"]:
            return step
    return None


def score(offset: int, shaken: float, tasks: int, seed: int) -> Score:
    """Plays the first `tasks` validation tasks of an offset."""
    task_set = shipped_tasks("pusht", split="val", offset=offset)
    with make_env(task_set) as env:
        steps = [
            play(env, task, ExpertPolicy(np.random.default_rng([seed, index])), shaken, 2 * offset)
            for index, task in enumerate(task_set.tasks[:tasks])
        ]
    solved = [step for step in steps if step is not None]
    low, high = wilson(len(solved), len(steps))
    return Score(offset, shaken, len(steps), len(solved), low, high, median(solved) if solved else None)


def main(
    tasks: Annotated[int, typer.Option(help="Tasks of each offset.", min=1, max=200)] = 50,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("out/expert.json"),
) -> None:
    """Prints and writes the scores."""
    scores = []
    for offset in OFFSETS:
        for shaken in (SHAKEN, 0.0):
            result = score(offset, shaken, tasks, seed)
            scores.append(result._asdict())
            print(f"offset {offset}, noise {shaken}: {result.solved} of {result.n}, {result.median_env_steps} steps")
    contents = {"command": command_line(), "seed": seed, "scores": scores, **machine()}
    write_text(out, json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
