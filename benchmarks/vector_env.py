"""Planning time for episodes of different ages; prints JSON: python benchmarks/vector_env.py.

A vector environment with autoreset soon has episodes of all ages: some plan at each environment step, for horizons that
the deadline shortens. It is compared with one whose episodes all began at the same step. All play episodes of random
pictures, in turns of a block, until each episode has had every age; medians over such rounds. There is no simulator.
"""

from __future__ import annotations

import json
from dataclasses import replace
from time import perf_counter, process_time
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from lwm_agent import Agent
from lwm_agent.compute.device import synchronize
from lwm_agent.eval.provenance import machine

Pictures = dict[str, NDArray[np.uint8]]

IDLE_EPISODES, IDLE_CALLS = (1, 64, 256), 100


class VectorEpisodes:
    """Episodes that an agent plays, each of which begins anew at its deadline.

    Args:
        agent: the agent.
        pictures: observations ``(B, h, w, C)``, the same at every step.
        ages: environment steps since each episode began, ``(B,)``.
        deadline: environment steps of an episode.
    """

    def __init__(self, agent: Agent, pictures: Pictures, ages: NDArray[np.int64], deadline: int) -> None:
        self.agent, self.pictures, self.deadline = agent, pictures, deadline
        _, state = agent.predict(pictures)
        self.state = replace(state, ages=ages, steps_until_replan=-ages % agent.schedule.frameskip)

    def seconds(self, env_steps: int) -> tuple[float, float]:
        """Time that the agent takes for `env_steps`, by the clock and of the CPU."""
        synchronize(self.agent.device)
        started, cpu_started = perf_counter(), process_time()
        for _ in range(env_steps):
            _, self.state = self.agent.predict(self.pictures, self.state, self.state.ages >= self.deadline)
        synchronize(self.agent.device)
        return perf_counter() - started, process_time() - cpu_started


def random_pictures(num: int, image_size: int) -> Pictures:
    """Observations of `num` episodes."""
    rng = np.random.default_rng(0)
    return {view: rng.integers(0, 256, (num, image_size, image_size, 3), np.uint8) for view in ("pixels", "goal")}


def compare(agent: Agent, num: int, deadline: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time of an environment step of `num` episodes, by the ages of the episodes."""
    rows, frameskip = np.arange(num), agent.schedule.frameskip
    blocks = deadline // frameskip
    ages = {
        "together": np.zeros(num, np.int64),
        "steps of a block apart": rows % frameskip,
        "blocks apart": frameskip * (rows % blocks),
        "steps apart": rows * max(1, deadline // num) % deadline,
    }
    pictures = random_pictures(num, agent.model.image_size)
    contestants = {name: VectorEpisodes(agent, pictures, start, deadline) for name, start in ages.items()}
    seconds = {name: np.zeros((rounds, blocks, 2)) for name in ages}
    for turn in np.ndindex(rounds, blocks):
        for name, episodes in contestants.items():
            seconds[name][turn] = episodes.seconds(frameskip)
    totals = {name: taken.sum(1) for name, taken in seconds.items()}  # (rounds, 2)
    result = {}
    for name, total in totals.items():
        clock, cpu = np.median(total / totals["together"], axis=0)
        ms = 1000 * np.median(total[:, 0]) / deadline
        result[f"began {name}"] = {
            "ms_an_env_step": round(float(ms), 2),
            "to_began_together": round(float(clock), 3),
            "to_began_together_by_cpu_time": round(float(cpu), 3),
        }
    return result


def idle_ms(agent: Agent, num: int) -> float:
    """Median time of a call of `predict` that does not plan, for `num` episodes."""
    pictures = random_pictures(num, agent.model.image_size)
    _, state = agent.predict(pictures)
    seconds = []
    for _ in range(IDLE_CALLS):
        started = perf_counter()
        agent.predict(pictures, state)
        synchronize(agent.device)
        seconds.append(perf_counter() - started)
    return round(1000 * float(np.median(seconds)), 3)


def main(
    checkpoint: Annotated[str, typer.Option(help="Folder or name.")] = "pusht-tiny",
    planner: Annotated[str, typer.Option(help="That of all environments.")] = "guided",
    episodes: Annotated[list[int] | None, typer.Option(help="Rows of the environment (default: 16 and 64).")] = None,
    deadline: Annotated[int, typer.Option(help="Environment steps of an episode: whole blocks.", min=5)] = 50,
    rounds: Annotated[int, typer.Option(help="Episodes that are timed.", min=1)] = 3,
) -> None:
    """Measure planning for episodes of different ages, and calls that do not plan."""
    agent = Agent.load(checkpoint, planner, deadline_env_steps=deadline)
    if deadline % agent.schedule.frameskip:
        raise typer.BadParameter(f"--deadline {deadline} is not a multiple of {agent.schedule.frameskip}, a block")
    measured = {f"{num} episodes": compare(agent, num, deadline, rounds) for num in episodes or (16, 64)}
    idle = {f"{num} episodes": idle_ms(agent, num) for num in IDLE_EPISODES}
    print(json.dumps({"planning": measured, "ms_without_planning": idle, **machine()}, indent=2))


if __name__ == "__main__":
    typer.run(main)
