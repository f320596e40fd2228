"""Success under other colours by how well the colours can be told apart: python benchmarks/color_contrast.py FOLDER.

FOLDER is what `lwm-agent robustness --env pusht` wrote. Colours are drawn at random, so that an agent may have nearly
the colour of its table. A task's contrast is that of the two least different of the three colours: the mean difference
of red, green and blue, in levels of 255. Of each evaluation under one shift of colours, the tasks are cut into quarters
by contrast, and the success of each is compared with that of the same tasks without a shift.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import typer
from numpy.typing import NDArray

from lwm_agent.envs.shifts import shifted
from lwm_agent.eval import TaskSet, make_env, shipped_tasks
from lwm_agent.eval.episode import episode_seed
from lwm_agent.eval.provenance import command_line
from lwm_agent.eval.results_file import Results, parse_results
from lwm_agent.files import write_text

COLORS = ("agent_color", "block_color", "background_color")
QUARTERS = 4


def contrast(colors: Sequence[Sequence[int]]) -> float:
    """Mean difference of red, green and blue of the two least different of some colours, in levels of 255."""
    return min(float(np.abs(np.subtract(one, other)).mean()) for one, other in combinations(colors, 2))


def contrasts(task_set: TaskSet, indices: Sequence[int], shifts: Sequence[str], seed: int) -> NDArray[np.float64]:
    """The contrast of each of the tasks `indices`, in the colours that an evaluation of this `seed` drew."""
    with shifted(make_env(task_set), shifts, "pusht") as env:
        return np.array([contrast(_colors(env, task_set, index, seed)) for index in indices])


def _colors(env: gym.Env[Any, Any], task_set: TaskSet, index: int, seed: int) -> list[Any]:
    env.reset(seed=episode_seed(seed, index), options=task_set.tasks[index].reset_options)
    simulator: Any = env.unwrapped
    return [simulator.variation[name] for name in COLORS]


def quarters(results: Results, usual: Results) -> list[dict[str, float]]:
    """Success by quarters of contrast, from the lowest, and that of `usual`, without a shift, on the same tasks."""
    run = results.run
    task_set = shipped_tasks("pusht", run["tasks"]["protocol"], run["tasks"]["split"], run["tasks"]["offset_env_steps"])
    indices = sorted(results.solved)
    found = contrasts(task_set, indices, run["shifts"], run["seed"])
    parts = np.array_split(np.argsort(found, kind="stable"), QUARTERS)
    return [
        {
            "most_contrast": round(float(found[part].max()), 1),
            "n": len(part),
            "solved": sum(results.solved[indices[place]] for place in part),
            "solved_without": sum(usual.solved[indices[place]] for place in part),
        }
        for part in parts
    ]


def main(
    folder: Annotated[Path, typer.Argument(help="Output folder of `lwm-agent robustness --env pusht`.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("out/color-contrast.json"),
) -> None:
    """Prints and writes the table."""
    evaluations = folder / "evaluations"
    usual = parse_results(evaluations / "none" / "results.json")
    table = {}
    for color in COLORS:
        name = f"{color.replace('_', '-')}=1"
        table[name] = quarters(parse_results(evaluations / name / "results.json"), usual)
        for row in table[name]:
            print(f"{name}, contrast to {row['most_contrast']:g}: {row['solved']} of {row['n']}", end=", ")
            print(f"without a shift {row['solved_without']}")
    contents = {"command": command_line(), "checkpoint": usual.run["checkpoint"], "quarters": table}
    write_text(out, json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
