"""How wrong are imagined futures, on the actions of the data and on those that planners choose? See --help.

For each task, several sequences of actions are imagined and then taken: the recorded ones, the recorded ones shaken as
a search shakes them, the actor's, and the plans of planners. A world model is as good for planning as its error on the
last ones, which is larger than on the data it was trained on: a search looks for futures that are imagined to be good,
and finds errors among them. Costs tell the same in the planner's own unit: how near to the goal a sequence was believed
to come, and how near it came.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.checkpoint import checksum
from lwm_agent.conventions import conventions
from lwm_agent.eval import Task, make_env, run_info, shipped
from lwm_agent.eval.tasks import write_atomic
from lwm_agent.imagination import Imagination
from lwm_agent.planners import make_planner, plan
from lwm_agent.planners.sampling import sample_actions
from lwm_agent.protocols import Problem

SHAKEN = (0.25, 0.5, 1.0)  # standard deviations, normalised
PLANNERS = ("guided", "cem")
Found = dict[str, dict[str, Any]]  # errors and costs of a task's sequences, by their names


@dataclass(frozen=True)
class Trial:
    """An agent and an environment to try what it imagines."""

    agent: Agent
    env: gym.Env[Any, Any]

    def run(self, task: Task, seed: int) -> Found:
        """Imagines and takes all sequences of a task."""
        agent, units = self.agent, self.agent.normalizer
        observation, _ = self.env.reset(options={"state": task.state, "goal_state": task.goal_state})
        start, goal = (agent._encode(observation[key][None]) for key in ("pixels", "goal"))
        imagination = Imagination(agent.model, start, goal.latent, agent.cost, agent.bf16, agent.max_rollouts)
        recorded = np.array(task.env_actions, np.float32).reshape(-1, agent.frameskip, units.action_size)
        sequences = self._sequences(imagination, units.blocks(recorded, agent.device), seed)
        return {name: self._compare(task, imagination, blocks) for name, blocks in sequences.items()}

    def _sequences(self, imagination: Imagination, recorded: Tensor, seed: int) -> dict[str, Tensor]:
        """Blocks ``(T, F*A)`` by what they are called."""
        agent, device = self.agent, self.agent.device
        problem = Problem(
            objective=imagination.objective,
            init=torch.zeros_like(recorded)[None],
            scale=torch.ones_like(recorded)[None],
            low=agent._low,
            high=agent._high,
            generators=[torch.Generator(device).manual_seed(seed)],
            action_size=agent.normalizer.action_size,
            dynamics=imagination,
        )
        sequences = {"recorded": recorded}
        for std in SHAKEN:
            sequences[f"shaken by {std:g}"] = sample_actions(problem, recorded[None], std * problem.scale, 2, 0.7)[0, 1]
        sequences["plain cem"] = plan(make_planner("cem"), problem).actions[0]
        if agent.proposal is None:
            return sequences
        deadline = torch.full((1,), len(recorded), device=device)
        propose = partial(agent.proposal, imagination.belief, imagination.goal, deadline, problem)
        guided = replace(problem, scale=agent.proposal_std * problem.scale, propose=propose)
        with torch.no_grad():
            sequences["actor"] = propose()[0, 0].float()
        return sequences | {name: plan(make_planner(name), guided).actions[0] for name in PLANNERS}

    def _compare(self, task: Task, imagination: Imagination, blocks: Tensor) -> dict[str, Any]:
        """Squared error of the latent after each block, and the cost, believed and real."""
        self.env.reset(options={"state": task.state, "goal_state": task.goal_state})
        frames = []
        for block in self.agent.normalizer.env_actions(blocks):
            for action in block:
                observation, *_ = self.env.step(action)
            frames.append(observation["pixels"])
        real = self.agent._encode(np.stack(frames)).latent.float()
        with torch.no_grad():
            imagined = imagination.rollout(blocks[None, None])[0, 0]
        errors = (imagined - real).square().mean(dim=-1)
        believed, really = (self._cost(latents, imagination.goal, blocks) for latents in (imagined, real))
        return {"errors": errors.tolist(), "believed": believed, "really": really}

    def _cost(self, latents: Tensor, goal: Tensor, blocks: Tensor) -> float:
        distances = self.agent.model.distance(latents[None, None], goal)
        return float(self.agent.cost(distances, blocks[None, None]))


def summarize(found: list[Found]) -> dict[str, dict[str, Any]]:
    """Means of the errors and medians of the costs over all tasks."""
    return {
        name: {
            "errors": np.mean([task[name]["errors"] for task in found], axis=0).tolist(),
            "believed": float(np.median([task[name]["believed"] for task in found])),
            "really": float(np.median([task[name]["really"] for task in found])),
        }
        for name in found[0]
    }


def show(summary: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints the summary."""
    horizon = len(next(iter(summary.values()))["errors"])
    table = Table("actions", *(f"{k + 1}" for k in range(horizon)), "believed", "really", box=SIMPLE_HEAD)
    for name, row in summary.items():
        table.add_row(
            name, *(f"{error:.3f}" for error in row["errors"]), f"{row['believed']:.3f}", f"{row['really']:.3f}"
        )
    console.print(
        "mean squared error of imagined latents, after so many blocks; median cost, believed and real", table, sep="\n"
    )


def main(
    env: Annotated[str, typer.Option(help="pusht or cube.")] = "pusht",
    checkpoint: Annotated[str | None, typer.Option(help="Folder or name (default: that of the package).")] = None,
    tasks: Annotated[int, typer.Option(help="Validation tasks, from the first.", min=1, max=200)] = 100,
    offset: Annotated[int, typer.Option(help="Environment steps from start to goal, and of a sequence.")] = 25,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write (default: out/ and the environment).")] = None,
) -> None:
    """Say how wrong a world model is where planners take it."""
    console, task_set = Console(), shipped(env, "strict", "val", offset)
    name, out = checkpoint or f"{env}-tiny", out or Path(f"out/model-error-{env}.json")
    agent = Agent.load(name, seed=seed)
    seen_as = conventions(env, agent.checkpoint.env_kwargs)
    trial = Trial(agent, make_env(task_set, seen_as))
    found = [trial.run(task, seed + i) for i, task in enumerate(track(task_set.tasks[:tasks], console=console))]
    report = {
        "run": run_info(
            task_set,
            seed=seed,
            checkpoint=checksum(name),
            planner={"name": ", ".join(PLANNERS), "agent": agent.settings()},
            env_kwargs=seen_as,
        ),
        "summary": summarize(found),
        "tasks": found,
    }
    write_atomic(out, json.dumps(report, indent=1, allow_nan=False) + "\n")
    show(report["summary"], console)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
