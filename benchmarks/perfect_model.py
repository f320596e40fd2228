"""What would a perfect world model gain? The same agent, with its model's futures and with the simulator's: see --help.

The simulator's futures are those of a twin of the environment, filmed and encoded: encoder, distance, planner and the
actor's proposals, which the model still imagines, stay as they are. What the second agent solves more than the first is
lost by searching in the model. For planners that only ask for costs: there is no gradient through a simulator.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast

import gymnasium as gym
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from options import CheckpointOption, EnvOption, OffsetOption, OutOption, SeedOption, TasksOption  # beside this file
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.agent.config import checkpoint_of
from lwm_agent.agent.state import AgentState
from lwm_agent.checkpoint import Checkpoint, checksum
from lwm_agent.compatibility import conventions
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.eval import Task, evaluate, make_env, run_info, shipped, wilson
from lwm_agent.files import write_text
from lwm_agent.protocols import Belief, Problem


class ClairvoyantAgent(Agent):
    """An agent, in one episode at a time, whose planner searches in what will really happen.

    Args:
        twin: an environment of the kind that the agent acts in; it takes the same actions.
        checkpoint: encoder, actor and units.
        settings: those of `Agent`.
    """

    def __init__(self, twin: gym.Env[Any, Any], checkpoint: Checkpoint, planner: str, **settings: Any) -> None:
        super().__init__(checkpoint, planner, **settings)
        self._twin = cast(GoalImageEnv, twin.unwrapped)

    def begin(self, tasks: list[Task]) -> None:
        """Puts the twin at the start of the one task (`evaluate` calls it)."""
        (task,) = tasks
        self._twin.set_state(np.array(task.state))

    def predict(self, observation: Any, state: Any = None, *args: Any, **more: Any) -> tuple[NDArray[Any], AgentState]:
        """The agent's action, which the twin takes too."""
        action, state = super().predict(observation, state, *args, **more)
        self._twin.simulate(action[0])
        return action, state

    def problem(self, belief: Belief, *rest: Any) -> Problem:
        """The agent's, with the twin's futures in place of the model's; the model still imagines the proposals."""
        problem = super().problem(belief, *rest)
        true = replace(cast(Any, problem.dynamics), model=self)

        def propose() -> tuple[Tensor, Tensor]:
            guesses, _ = cast(Any, problem.propose)()
            return guesses, true.objective(guesses)

        return replace(problem, objective=true.objective, dynamics=true, propose=problem.propose and propose)

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Latents ``(1, S, T, D)`` of what the twin looks like after each block of `actions` ``(1, S, T, F*A)``."""
        env_actions = self.normalizer.env_actions(actions[0]).reshape(*actions.shape[1:3], self.frameskip, -1)
        now, pictures = self._twin.get_state(), []
        for candidate in env_actions:
            self._twin.set_state(now)
            for block in candidate:
                for action in block:
                    self._twin.simulate(action)
                pictures.append(self._twin.picture(self._twin.get_state()))
        self._twin.set_state(now)
        return self.encode(np.stack(pictures)).latent.unflatten(0, actions.shape[:3])

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """That of the model."""
        distance: Tensor = self.model.distance(latents, goal)
        return distance


def main(
    env: EnvOption = "pusht",
    checkpoint: CheckpointOption = None,
    planner: Annotated[str, typer.Option(help="That of both agents.")] = "guided",
    cost: Annotated[str, typer.Option(help="As agent.cost, whatever the checkpoint recommends.")] = "best-step",
    tasks: TasksOption = 100,
    offset: OffsetOption = 25,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> None:
    """Evaluate an agent with its world model, and with the simulator in place of its predictor."""
    console, task_set = Console(), shipped(env, "strict", "val", offset)
    torch.set_num_threads(1)  # one core simulates; another thread would only wait for it
    name = checkpoint_of(env, checkpoint)
    trained = Checkpoint.load(name)
    seen_as = conventions(env, trained.env_kwargs)
    settings: dict[str, Any] = {"cost": cost, "deadline_env_steps": task_set.budget_env_steps, "seed": seed}
    twin = make_env(task_set, seen_as)
    agents = {
        "model": Agent(trained, planner, **settings),
        "simulator": ClairvoyantAgent(twin, trained, planner, **settings),
    }
    episodes: dict[str, list[dict[str, Any]]] = {}
    for futures, agent in agents.items():
        indices = track(range(tasks), description=f"futures of the {futures}", console=console)
        given: dict[str, Any] = {"batch_size": 1, "seed": seed, "env_kwargs": seen_as}
        one_by_one = (evaluate(agent, task_set, indices=[index], **given) for index in indices)
        episodes[futures] = [asdict(episode) for (episode,) in one_by_one]
    twin.close()
    summary = {}
    for futures, found in episodes.items():
        solved = sum(episode["success"] for episode in found)
        summary[futures] = {"success": solved / tasks, "ci95": wilson(solved, tasks)}
        console.print(f"futures of the {futures}: {solved} of {tasks} tasks solved")
    made_with = {"name": planner, "agent": agents["model"].settings()}
    run = run_info(task_set, seed=seed, checkpoint=checksum(name), planner=made_with, env_kwargs=seen_as)
    out = out or Path(f"out/perfect-model-{env}.json")
    write_text(out, json.dumps({"run": run, "summary": summary, "episodes": episodes}, allow_nan=False) + "\n")
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
