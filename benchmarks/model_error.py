"""How wrong are imagined futures, on the actions of the data and on those that planners choose? See --help.

For each task, several sequences of actions are imagined and then taken: the recorded ones, the recorded ones perturbed
as a search perturbs them, the actor's, and the plans of planners at the first decision of an evaluation. A world model
is as good for planning as its error on the last ones, which is larger than on the data it was trained on: a search
looks for futures that are imagined to be good, and finds errors among them. The cost tells the same in the planner's
own unit: how near to the goal a sequence was predicted to come, and how near it came.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import typer
from options import CheckpointOption, EnvOption, OffsetOption, OutOption, SeedOption, TasksOption  # beside this file
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.agent.config import AgentConfig, checkpoint_of, load_agent
from lwm_agent.agent.objective import Imagination
from lwm_agent.checkpoint import checksum
from lwm_agent.compatibility import conventions
from lwm_agent.eval import Task, make_env, run_info, shipped
from lwm_agent.files import write_text
from lwm_agent.planners import make_planner, plan
from lwm_agent.planners.sampling import sample_actions
from lwm_agent.protocols import Belief, Problem

PERTURBATIONS = (0.25, 0.5, 1.0)  # standard deviations, normalised
PLANNERS = ("guided", "cem")
COST = "best-step"  # of distances only, whatever the checkpoint recommends: the costs are compared
Found = dict[str, dict[str, Any]]  # errors and costs of a task's sequences, by their names


@dataclass(frozen=True)
class Trial:
    """Agents, with the actor's proposal and without, and an environment to try what they imagine."""

    agent: Agent
    plain: Agent
    env: gym.Env[Any, Any]
    budget_env_steps: int

    def run(self, task: Task, seed: int) -> Found:
        """Imagines and takes all sequences of a task."""
        observation, _ = self.env.reset(options={"state": task.state, "goal_state": task.goal_state})
        start, goal = (self.agent.encode(observation[key][None]) for key in ("pixels", "goal"))
        sequences = self._sequences(task, start, goal.latent, seed)
        return {name: self._compare(task, start, goal.latent, blocks) for name, blocks in sequences.items()}

    def _sequences(self, task: Task, start: Belief, goal: Tensor, seed: int) -> dict[str, Tensor]:
        """Blocks ``(T, F*A)`` by what they are called."""
        agent, units, device = self.agent, self.agent.normalizer, self.agent.device
        env_actions = np.array(task.env_actions, np.float32).reshape(-1, agent.frameskip, units.action_size)
        recorded = units.blocks(env_actions[: agent.horizon], device)
        deadline = torch.full((1,), self.budget_env_steps / agent.frameskip, device=device)

        def pose(agent: Agent) -> Problem:
            init = torch.zeros_like(recorded)[None]
            return agent.problem(start, goal, init, deadline, [torch.Generator(device).manual_seed(seed)])

        sequences = {"recorded": recorded}
        for std in PERTURBATIONS:
            drawn = sample_actions(pose(self.plain), recorded[None], torch.full_like(recorded, std)[None], 2, 0.7)
            sequences[f"perturbed by {std:g}"] = drawn[0, 1]
        for name in PLANNERS if agent.proposal is not None else ():
            sequences[name] = plan(make_planner(name), pose(agent)).actions[0]
        return sequences | {"cem, no proposal": plan(make_planner("cem"), pose(self.plain)).actions[0]}

    def _compare(self, task: Task, start: Belief, goal: Tensor, blocks: Tensor) -> dict[str, Any]:
        """Squared error of the latent after each block, and the cost, predicted and actual."""
        agent = self.agent
        self.env.reset(options={"state": task.state, "goal_state": task.goal_state})
        frames = []
        for block in agent.normalizer.env_actions(blocks):
            for action in block:
                observation, *_ = self.env.step(action)
            frames.append(observation["pixels"])
        actual = agent.encode(np.stack(frames)).latent.float()
        imagination = Imagination(agent.model, start, goal, agent.cost, agent.bf16, agent.max_rollouts)
        with torch.no_grad():
            predicted = imagination.rollout(blocks[None, None])[0, 0]
            costs = [
                float(imagination.rate(latents[None, None], blocks[None, None])) for latents in (predicted, actual)
            ]
        errors = (predicted - actual).square().mean(dim=-1).tolist()
        return {"errors": errors, **dict(zip(("predicted", "actual"), costs, strict=True))}


def summarize(found: list[Found]) -> dict[str, dict[str, Any]]:
    """Means of the errors and medians of the costs over all tasks."""
    return {
        name: {
            "errors": np.mean([task[name]["errors"] for task in found], axis=0).tolist(),
            "predicted": float(np.median([task[name]["predicted"] for task in found])),
            "actual": float(np.median([task[name]["actual"] for task in found])),
        }
        for name in found[0]
    }


def show(summary: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints the summary."""
    horizon = len(next(iter(summary.values()))["errors"])
    table = Table("actions", *(f"{k + 1}" for k in range(horizon)), "predicted", "actual", box=SIMPLE_HEAD)
    for name, row in summary.items():
        table.add_row(
            name, *(f"{error:.3f}" for error in row["errors"]), f"{row['predicted']:.3f}", f"{row['actual']:.3f}"
        )
    console.print("mean squared error of imagined latents, after so many blocks; median cost", table, sep="\n")


def main(
    env: EnvOption = "pusht",
    checkpoint: CheckpointOption = None,
    tasks: TasksOption = 100,
    offset: OffsetOption = 25,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> None:
    """Say how wrong a world model is where planners take it."""
    console, task_set = Console(), shipped(env, "strict", "val", offset)
    out = out or Path(f"out/model-error-{env}.json")
    agent, plain = (
        load_agent(AgentConfig(env=env, planner="cem", checkpoint=checkpoint, seed=seed, agent_settings=settings))
        for settings in ({"cost": COST}, {"cost": COST, "proposal": "none"})
    )
    seen_as = conventions(env, agent.checkpoint.env_kwargs)
    trial = Trial(agent, plain, make_env(task_set, seen_as), task_set.budget_env_steps)
    found = [trial.run(task, seed + i) for i, task in enumerate(track(task_set.tasks[:tasks], console=console))]
    report = {
        "run": run_info(
            task_set,
            seed=seed,
            checkpoint=checksum(checkpoint_of(env, checkpoint)),
            planner={"name": ", ".join(PLANNERS), "agent": agent.settings()},
            env_kwargs=seen_as,
        ),
        "summary": summarize(found),
        "tasks": found,
    }
    write_text(out, json.dumps(report, indent=1, allow_nan=False) + "\n")
    show(report["summary"], console)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
